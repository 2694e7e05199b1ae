//! The grammar on the language page against the parser: on random files, on every file of the project, and on both
//! with a token left out, doubled, exchanged or replaced.
//!
//! The page's rules are read as they are printed, and recognised as by Earley: so the page needs no care about conflicts.

mod common;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use attnc_syntax::diag::FileId;
use attnc_syntax::{parse, print_file};
use proptest::prelude::*;

/// What a rule is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Symbol {
    /// A text as it stands.
    Text(String),
    /// NAME, FIELD, INTEGER, REAL or STRING.
    Class(&'static str),
    /// Another rule.
    Rule(usize),
}

/// Rules by number: each a list of alternatives.
#[derive(Default)]
struct Grammar {
    rules: Vec<Vec<Vec<Symbol>>>,
    numbers: HashMap<String, usize>,
    /// Rules that an empty text fulfils.
    nullable: Vec<bool>,
}

const CLASSES: [&str; 5] = ["NAME", "FIELD", "INTEGER", "REAL", "STRING"];

impl Grammar {
    /// Reads the block of the page.
    fn of_page(page: &str) -> Grammar {
        let block =
            page.split("```text grammar\n").nth(1).and_then(|rest| rest.split("\n```").next()).expect("a block");
        let mut texts: Vec<(String, String)> = vec![];
        for line in block.lines().filter(|line| !line.trim().is_empty()) {
            match line.split_once(" = ").filter(|_| !line.starts_with(' ')) {
                Some((name, rest)) => texts.push((name.trim().to_owned(), rest.to_owned())),
                None => texts.last_mut().expect("a rule").1.push_str(line),
            }
        }
        let mut grammar = Grammar::default();
        for (name, _) in &texts {
            grammar.numbers.insert(name.clone(), grammar.rules.len());
            grammar.rules.push(vec![]);
        }
        for (number, (_, text)) in texts.iter().enumerate() {
            let words = words_of_rule(text);
            let mut at = 0;
            grammar.rules[number] = grammar.alternatives(&words, &mut at);
            assert_eq!(at, words.len(), "{text}");
        }
        grammar.nullable = vec![false; grammar.rules.len()];
        loop {
            let empty = |symbol: &Symbol| matches!(symbol, Symbol::Rule(n) if grammar.nullable[*n]);
            let now: Vec<bool> = grammar.rules.iter().map(|rule| rule.iter().any(|a| a.iter().all(empty))).collect();
            if now == grammar.nullable {
                return grammar;
            }
            grammar.nullable = now;
        }
    }

    fn alternatives(&mut self, words: &[String], at: &mut usize) -> Vec<Vec<Symbol>> {
        let mut found = vec![vec![]];
        while let Some(word) = words.get(*at) {
            if word == ")" {
                break;
            }
            *at += 1;
            if word == "|" {
                found.push(vec![]);
                continue;
            }
            let symbol = match word.as_str() {
                "(" => {
                    let inside = self.alternatives(words, at);
                    *at += 1;
                    self.rule(inside)
                }
                quoted if quoted.starts_with('"') => Symbol::Text(quoted.trim_matches('"').to_owned()),
                class if CLASSES.contains(&class) => {
                    Symbol::Class(CLASSES.into_iter().find(|known| *known == class).expect("known"))
                }
                name => Symbol::Rule(*self.numbers.get(name).unwrap_or_else(|| panic!("no rule `{name}`"))),
            };
            let suffix = words.get(*at).map_or("", String::as_str);
            let comma = || Symbol::Text(",".to_owned());
            let symbol = match suffix {
                "?" => self.rule(vec![vec![], vec![symbol]]),
                "*" => self.repeated(vec![], &symbol),
                "+" => self.repeated(vec![symbol.clone()], &symbol),
                ",+" | ",*" => {
                    let next = self.rule(vec![vec![comma(), symbol.clone()]]);
                    let list = self.repeated(vec![symbol], &next);
                    let last = self.rule(vec![vec![], vec![comma()]]);
                    let mut all = vec![vec![list, last]];
                    if suffix == ",*" {
                        all.push(vec![]);
                    }
                    self.rule(all)
                }
                _ => symbol,
            };
            *at += usize::from(matches!(suffix, "?" | "*" | "+" | ",+" | ",*"));
            found.last_mut().expect("one").push(symbol);
        }
        found
    }

    fn rule(&mut self, alternatives: Vec<Vec<Symbol>>) -> Symbol {
        self.rules.push(alternatives);
        Symbol::Rule(self.rules.len() - 1)
    }

    /// `first`, and then any number of the symbol.
    fn repeated(&mut self, first: Vec<Symbol>, symbol: &Symbol) -> Symbol {
        let number = self.rules.len();
        self.rule(vec![first, vec![Symbol::Rule(number), symbol.clone()]])
    }

    /// Whether these tokens are a file.
    fn accepts(&self, tokens: &[Token]) -> bool {
        // A state: rule, alternative, place in it, and the set it began in.
        type State = (usize, usize, usize, usize);
        // Items stand at the beginning of a line.
        let item = self.numbers["item"];
        let mut sets: Vec<Vec<State>> = vec![(0..self.rules[0].len()).map(|a| (0, a, 0, 0)).collect()];
        for i in 0..=tokens.len() {
            let (mut seen, mut next): (HashSet<State>, Vec<State>) = (sets[i].iter().copied().collect(), vec![]);
            let mut at = 0;
            while at < sets[i].len() {
                let state = sets[i][at];
                at += 1;
                let (rule, alternative, place, begin) = state;
                let mut found = vec![];
                match self.rules[rule][alternative].get(place) {
                    Some(Symbol::Rule(n)) => {
                        found.extend((0..self.rules[*n].len()).map(|a| (*n, a, 0, i)));
                        if self.nullable[*n] {
                            found.push((rule, alternative, place + 1, begin));
                        }
                    }
                    Some(symbol) => {
                        let after_dot = i > 0 && tokens[i - 1].text == ".";
                        let stands = |token: &Token| i == 0 || token.first || (rule, place) != (item, 0);
                        if tokens.get(i).is_some_and(|token| token.is(symbol, after_dot) && stands(token)) {
                            next.push((rule, alternative, place + 1, begin));
                        }
                    }
                    None => {
                        let waits = |s: &&State| self.rules[s.0][s.1].get(s.2) == Some(&Symbol::Rule(rule));
                        found.extend(sets[begin].iter().filter(waits).map(|s| (s.0, s.1, s.2 + 1, s.3)));
                    }
                }
                found.retain(|s| seen.insert(*s));
                sets[i].extend(found);
            }
            sets.push(next);
        }
        sets[tokens.len()]
            .iter()
            .any(|&(rule, a, place, begin)| (rule, begin) == (0, 0) && place == self.rules[0][a].len())
    }
}

/// The words of a rule: quoted texts, names, brackets and suffixes.
fn words_of_rule(text: &str) -> Vec<String> {
    let (mut words, mut rest) = (vec![], text.trim_start());
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '"' => rest[1..].find('"').expect("a closing quote") + 2,
            ',' => 2,
            c if c.is_ascii_alphanumeric() => rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len()),
            _ => 1,
        };
        words.push(rest[..len].to_owned());
        rest = rest[len..].trim_start();
    }
    words
}

/// A token of a source, and whether it is the first of its line.
#[derive(Clone, Debug)]
struct Token {
    text: String,
    first: bool,
}

/// Words that are never names: what the lexer gives tokens of their own, and `_`.
fn keywords() -> HashSet<String> {
    let lexer = fs::read_to_string(root().join("crates/attnc-syntax/src/token.rs")).expect("the lexer");
    let words = lexer.split("#[token(\"").skip(1).filter_map(|rest| rest.split('"').next());
    words.filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')).map(str::to_owned).collect()
}

thread_local! {
    static KEYWORDS: HashSet<String> = keywords();
}

impl Token {
    fn is(&self, symbol: &Symbol, after_dot: bool) -> bool {
        let begins = |f: fn(char) -> bool| self.text.starts_with(f);
        let word = begins(|c| c.is_ascii_alphabetic() || c == '_');
        match symbol {
            // What follows a dot is a name whatever it is.
            Symbol::Text(text) => *text == self.text && !(after_dot && word),
            Symbol::Class("NAME") => {
                word && (self.text == "causal" || after_dot || KEYWORDS.with(|words| !words.contains(&self.text)))
            }
            Symbol::Class("FIELD") => word,
            Symbol::Class("STRING") => begins(|c| c == '"'),
            Symbol::Class(number) => {
                let real = self.text.contains(['.', 'e', 'E']);
                begins(|c| c.is_ascii_digit()) && real == (*number == "REAL")
            }
            Symbol::Rule(_) => false,
        }
    }
}

fn tokens(source: &str) -> Vec<Token> {
    let mut found = vec![];
    for line in source.lines() {
        let (mut rest, mut first) = (line.trim_start(), true);
        while let Some(c) = rest.chars().next() {
            if rest.starts_with("//") {
                break;
            }
            let signs = ["..=", "..", "=>", "==", "!=", "<=", ">=", "++"];
            let len = if c.is_ascii_alphabetic() || c == '_' {
                rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())
            } else if c.is_ascii_digit() {
                number(rest)
            } else if c == '"' {
                rest[1..].find('"').map_or(rest.len(), |end| end + 2)
            } else {
                signs.iter().find(|sign| rest.starts_with(**sign)).map_or(c.len_utf8(), |sign| sign.len())
            };
            found.push(Token { text: rest[..len].to_owned(), first });
            first = false;
            rest = rest[len..].trim_start();
        }
    }
    found
}

/// How long a number is: `1_024`, `0.5`, `1e-3`.
fn number(text: &str) -> usize {
    let digits = |from: usize| {
        let rest = &text[from..];
        from + rest.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(rest.len())
    };
    let mut end = digits(0);
    let digit_at = |at: usize| text[at..].starts_with(|c: char| c.is_ascii_digit());
    if text[end..].starts_with('.') && digit_at(end + 1) {
        end = digits(end + 1);
    }
    if text[end..].starts_with(['e', 'E']) {
        let sign = usize::from(text[end + 1..].starts_with(['+', '-']));
        if digit_at(end + 1 + sign) {
            end = digits(end + 1 + sign);
        }
    }
    end
}

/// A source of these tokens, in the lines they stood in.
fn text(tokens: &[Token]) -> String {
    tokens.iter().map(|t| format!("{}{}", if t.first { "\n" } else { " " }, t.text)).collect::<String>() + "\n"
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn grammar() -> Grammar {
    Grammar::of_page(&fs::read_to_string(root().join("docs/language.md")).expect("the language page"))
}

/// Codes of what a grammar without contexts does not say: the limits of numbers and nesting, `except` beside `|`, what
/// totals a model has, and heads without a word.
const BEYOND: [&str; 6] = ["E0103", "E0106", "E0111", "E0112", "E0113", "E0115"];

/// The parser's answer: `None` if it depends on more than the grammar.
fn parses(source: &str) -> Option<bool> {
    let said = parse(source, FileId::default()).diagnostics;
    let beyond = said.iter().any(|d| BEYOND.contains(&d.code));
    if beyond { None } else { Some(said.is_empty()) }
}

/// Every `.attn` file of the project, filetests of errors too.
fn sources() -> Vec<String> {
    let (mut found, mut dirs) = (vec![], vec![root().join("patterns"), root().join("tests/filetests")]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                dirs.push(entry);
            } else if entry.extension().is_some_and(|end| end == "attn") {
                found.push(entry);
            }
        }
    }
    assert!(found.len() > 200, "files are found");
    // The same changes wherever directories are read in another order.
    found.sort();
    found.into_iter().map(|path| fs::read_to_string(path).expect("a file")).collect()
}

/// Words that are names in all places but one: a name of that spelling may be taken for the word.
const IN_ONE_PLACE: [&str; 24] = [
    "scale",
    "score",
    "align",
    "empty",
    "queries",
    "bias",
    "null",
    "near",
    "disc",
    "halves",
    "doc",
    "seed",
    "step",
    "layer",
    "head",
    "level",
    "select",
    "merge",
    "where",
    "then",
    "within",
    "besides",
    "including",
    "among",
];

/// What the parser accepts the page accepts, and the other way round where no word is out of its place.
fn compare(grammar: &Grammar, tokens: &[Token], in_place: bool) -> Result<(), String> {
    let source = text(tokens);
    let Some(parsed) = parses(&source).filter(|parsed| *parsed || in_place) else { return Ok(()) };
    let page = grammar.accepts(tokens);
    if parsed == page {
        return Ok(());
    }
    let said = parse(&source, FileId::default()).diagnostics;
    Err(format!("the page {}, the parser {said:?}:{source}", if page { "accepts" } else { "rejects" }))
}

#[test]
fn every_file_is_what_the_page_says() {
    let grammar = grammar();
    let (mut wrong, mut random) = (vec![], 1_u64);
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize
    };
    for source in sources() {
        let whole = tokens(&source);
        wrong.extend(compare(&grammar, &whole, true).err());
        // Long files take long, and hold nothing that short ones do not.
        for how in (0..8).filter(|_| (1..400).contains(&whole.len())) {
            let (at, other) = (next() % whole.len(), next() % whole.len());
            // A word behind which something is changed may now be a name.
            let near = &whole[at.saturating_sub(6)..whole.len().min(at + 2)];
            let in_place = !near.iter().chain([&whole[other]]).any(|t| IN_ONE_PLACE.contains(&t.text.as_str()));
            wrong.extend(compare(&grammar, &changed(whole.clone(), how % 4, at, other), in_place).err());
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// One token of a source left out, doubled, exchanged with the next, or replaced by another of the source.
fn changed(mut tokens: Vec<Token>, how: u8, at: usize, other: usize) -> Vec<Token> {
    if tokens.is_empty() {
        return tokens;
    }
    let (at, other) = (at % tokens.len(), other % tokens.len());
    match how {
        0 => {
            let gone = tokens.remove(at);
            if let Some(next) = tokens.get_mut(at) {
                next.first |= gone.first;
            }
        }
        1 => {
            let twice = Token { first: false, ..tokens[at].clone() };
            tokens.insert(at + 1, twice);
        }
        2 => {
            let next = (at + 1) % tokens.len();
            let (a, b) = (tokens[at].text.clone(), tokens[next].text.clone());
            (tokens[at].text, tokens[next].text) = (b, a);
        }
        _ => tokens[at].text = tokens[other].text.clone(),
    }
    tokens
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_files_are_what_the_page_says(file in common::files(), how in 0..5_u8, at: usize, other: usize) {
        let mut tokens = tokens(&print_file(&file));
        if how < 4 {
            tokens = changed(tokens, how, at, other);
        }
        prop_assert_eq!(compare(&grammar(), &tokens, false), Ok(()));
    }
}
