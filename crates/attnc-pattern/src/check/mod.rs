//! From syntax to meaning: names, kinds, sizes, and every set as one predicate over a query and a key.
//!
//! [`check`] is a function of syntax trees: it reads no file and prints nothing. Errors are collected, many at
//! once; an expression whose error was reported is `None` from there on, so that one mistake is said once.
//! What the language means stands here and nowhere else; nothing here knows of tiles, kernels or targets.
//!
//! ```text
//! names      which names exist                scope   what q, k and lengths mean where
//! decls      params, sizes, tensors, maps     lower   expressions by form, the algebra of sets
//! space      segments, axes, orders           arith   numbers, comparisons, ranges
//! resolve    names where they are used        forms   block, along, each doc, halves, near, random, ..
//! attention  entries and statements           model   who attends how, and that nobody is left out
//! levels     slots, and sets read at them     scores  scores and their steps
//! selects    budgets, rows and candidates     merges  attentions made of attentions
//! facts      bounds and readings              codes   what each error means
//! ```

mod arith;
mod attention;
pub mod codes;
mod decls;
mod facts;
mod forms;
mod levels;
mod lower;
mod merges;
mod model;
mod names;
mod resolve;
mod scope;
mod scores;
mod selects;
mod space;
mod spell;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use attnc_syntax::ast::{File, Item, ItemKind};
use attnc_syntax::diag::{Diagnostic, FileId, Severity, Span};

pub use self::facts::MAX_LENGTH;
pub use self::names::STANDARD;

use self::facts::Facts;
use self::names::{ItemRef, Named, Names};
use self::scope::{Cx, Frame, Place, Scope, Val};
use self::space::AxisRef;
use crate::expr::{ExprId, Exprs};
use crate::program::{Demand, Program};

/// One parsed file.
#[derive(Clone, Debug)]
pub struct Module {
    /// The file, as spans name it.
    pub file: FileId,
    /// Its syntax tree.
    pub ast: File,
    /// The file of each import item, in the order of the items.
    pub imports: Vec<FileId>,
}

/// What the user of a file chose.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `--set NAME=VALUE`: values of params of the compiled file, its own and those it imports by name.
    /// Of two settings of one name the last holds.
    pub set: Vec<(String, String)>,
}

/// Expansions inside expansions.
const MAX_EXPANSIONS: usize = 64;
/// Levels of expressions inside one another, expansions included.
const MAX_DEPTH: usize = 1_000;
/// Expressions lowered for one file, expansions included.
const MAX_STEPS: usize = 1_500_000;
/// Nodes of the arena.
const MAX_NODES: usize = 1_000_000;
/// Diagnostics that are shown.
const MAX_ERRORS: usize = 100;

/// Checks the last of `modules`, which stand in import order (imported before users).
///
/// There is a program exactly if no diagnostic is an error.
#[must_use]
pub fn check(modules: &[Module], settings: &Settings) -> (Option<Program>, Vec<Diagnostic>) {
    let Some(main) = modules.len().checked_sub(1) else {
        return (Some(Program::default()), vec![]);
    };
    let (names, errors) = names::tables(modules);
    let mut checker = Checker::new(modules, main, names);
    for error in errors {
        checker.report(error);
    }
    checker.settings(settings);
    checker.space();
    checker.declarations();
    checker.attentions();
    checker.models();
    checker.patterns_with_arguments();
    checker.finish()
}

/// What is known of a param.
#[derive(Clone, Copy, Debug)]
enum Param {
    /// Its value is being computed.
    Started,
    /// Its value, or `None` if that had an error.
    Known(Option<ExprId>),
}

/// A pattern without arguments, lowered in one scope.
#[derive(Clone, Debug)]
struct Expanded {
    value: Option<Val>,
    /// Conditions on a launch that it brings.
    launch: Vec<Demand>,
}

/// The state of a check.
#[derive(Clone)]
struct Checker<'a> {
    modules: &'a [Module],
    /// The module that is compiled.
    main: usize,
    names: Vec<Names>,
    program: Program,
    exprs: Exprs,
    facts: Facts,
    /// Tokens in original order.
    tokens: Scope,
    /// Axes by name, with their coordinates.
    axes: HashMap<&'a str, AxisRef>,
    /// Values chosen for params.
    chosen: HashMap<ItemRef, String>,
    params: HashMap<ItemRef, Param>,
    /// Places in the program of items that were declared in it; `None` if that failed.
    declared: HashMap<ItemRef, Option<usize>>,
    /// Names of run-time data and who declared them.
    data: HashMap<&'a str, (ItemRef, Span)>,
    /// Attentions of the program by item; `None` if there was an error.
    by_item: HashMap<ItemRef, Option<usize>>,
    expanded: HashMap<(ItemRef, Scope, Place), Expanded>,
    /// What a launch must fulfil for the attention that is being lowered.
    launch: Vec<Demand>,
    /// The same of levels, scores and selections, for those who use them.
    conditions: HashMap<ItemRef, Vec<Demand>>,
    /// The tensor that is being made, if it is.
    hashed: Option<decls::Hashed>,
    /// Levels, scores and selections that are being made.
    making: Vec<ItemRef>,
    depth: usize,
    steps: usize,
    /// A limit was reported: nothing is lowered any more.
    exhausted: bool,
    diagnostics: Vec<Diagnostic>,
    said: HashSet<(&'static str, Option<Span>, String)>,
}

impl<'a> Checker<'a> {
    fn new(modules: &'a [Module], main: usize, names: Vec<Names>) -> Self {
        let mut exprs = Exprs::new();
        let tokens = Scope::tokens(&mut exprs);
        Checker {
            modules,
            main,
            names,
            program: Program::default(),
            exprs,
            facts: Facts::new(),
            tokens,
            axes: HashMap::new(),
            chosen: HashMap::new(),
            params: HashMap::new(),
            declared: HashMap::new(),
            data: HashMap::new(),
            by_item: HashMap::new(),
            expanded: HashMap::new(),
            launch: Vec::new(),
            conditions: HashMap::new(),
            hashed: None,
            making: Vec::new(),
            depth: 0,
            steps: 0,
            exhausted: false,
            diagnostics: Vec::new(),
            said: HashSet::new(),
        }
    }

    fn finish(mut self) -> (Option<Program>, Vec<Diagnostic>) {
        self.program.exprs = self.exprs;
        let failed = self.diagnostics.iter().any(|d| d.severity == Severity::Error);
        ((!failed).then_some(self.program), self.diagnostics)
    }

    /// Reports something; the same thing at the same place once.
    fn report(&mut self, diagnostic: Diagnostic) {
        let place = diagnostic.labels.first().map(|l| l.span);
        if self.diagnostics.len() > MAX_ERRORS
            || !self.said.insert((diagnostic.code, place, diagnostic.message.clone()))
        {
            return;
        }
        self.diagnostics.push(match self.diagnostics.len() {
            MAX_ERRORS => Diagnostic::global("E0215", "too many errors: the others are not shown")
                .help("repair the first ones: many errors follow from others"),
            _ => diagnostic,
        });
    }

    /// Reports an error in an expression, with the use of the pattern that led there.
    fn fail<T>(&mut self, cx: &Cx<'a>, mut diagnostic: Diagnostic) -> Option<T> {
        if let Some(used) = cx.frame.used {
            diagnostic = diagnostic.label(used, "in this use");
        }
        self.report(diagnostic);
        None
    }

    fn item(&self, item: ItemRef) -> &'a Item {
        &self.modules[item.module].ast.items[item.item]
    }

    /// The items of the compiled file.
    fn items(&self) -> impl Iterator<Item = (ItemRef, &'a Item)> + use<'a> {
        let module = self.main;
        self.modules[module].ast.items.iter().enumerate().map(move |(item, node)| (ItemRef { module, item }, node))
    }

    /// An expression at the top level of a module.
    fn top(&self, module: usize, place: Place) -> Cx<'a> {
        Cx { frame: Rc::new(Frame::new(module)), scope: self.tokens, place }
    }

    /// `--set NAME=VALUE` finds its params.
    fn settings(&mut self, settings: &Settings) {
        for (name, value) in &settings.set {
            let found = match self.names[self.main].get(name) {
                Some((Named::Item(item), _)) if matches!(self.item(item).kind, ItemKind::Param { .. }) => Some(item),
                Some((Named::Broken, _)) => continue,
                _ => None,
            };
            match found {
                Some(item) => {
                    self.chosen.insert(item, value.clone());
                }
                None => {
                    let params = self.params_of_main();
                    let error = Diagnostic::global("E0308", format!("there is no param `{name}` to set"));
                    self.report(match names::nearest(name, params.iter().copied()) {
                        Some(near) => error.help(format!("did you mean `--set {near}={value}`?")),
                        None if params.is_empty() => error.help("the file declares no params"),
                        None => error.help(format!("its params are {}", names::listed(&params))),
                    });
                }
            }
        }
    }

    fn params_of_main(&self) -> Vec<&str> {
        let names = &self.names[self.main];
        let is_param = |name: &&str| matches!(names.get(name), Some((Named::Item(i), _)) if matches!(self.item(i).kind, ItemKind::Param { .. }));
        names.all().into_iter().filter(is_param).collect()
    }
}
