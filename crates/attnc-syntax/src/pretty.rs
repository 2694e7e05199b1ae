//! Lays out a stream of texts, breaks and comments within a line width.
//!
//! One idea: a group is flat if it and what follows it up to the next break fit on the line, and if no comment
//! lies inside it; else all of its own breaks are line ends. Widths come from one pass from the back,
//! so a layout costs time linear in the text. Nothing here knows of syntax.

#[derive(Debug)]
enum Event {
    Text(String),
    /// A text that only a flat group has.
    Flat(&'static str),
    /// A group; its lines are indented by so many levels more than those around it.
    Begin(usize),
    End,
    /// A space (or nothing) when flat, a line end when not; the latter one level out for a closing bracket.
    Break {
        flat: &'static str,
        out: bool,
    },
    /// A line end in any case, with an empty line before the next text or without.
    Hard {
        blank: bool,
    },
    Comment {
        text: String,
        own_line: bool,
    },
}

/// Collects events; [`Pretty::render`] lays them out.
#[derive(Debug, Default)]
pub(crate) struct Pretty {
    events: Vec<Event>,
}

impl Pretty {
    pub(crate) fn text(&mut self, text: impl Into<String>) {
        self.events.push(Event::Text(text.into()));
    }

    /// A text that is left out where its group is not flat.
    pub(crate) fn flat(&mut self, text: &'static str) {
        self.events.push(Event::Flat(text));
    }

    /// Opens a group whose lines are indented by `levels` more.
    pub(crate) fn begin(&mut self, levels: usize) {
        self.events.push(Event::Begin(levels));
    }

    pub(crate) fn end(&mut self) {
        self.events.push(Event::End);
    }

    /// A space, or a line end.
    pub(crate) fn space(&mut self) {
        self.events.push(Event::Break { flat: " ", out: false });
    }

    /// Nothing, or a line end.
    pub(crate) fn cut(&mut self) {
        self.events.push(Event::Break { flat: "", out: false });
    }

    /// A break before a closing bracket: `flat`, or a line end one level out.
    pub(crate) fn close(&mut self, flat: &'static str) {
        self.events.push(Event::Break { flat, out: true });
    }

    /// A line end, and an empty line if `blank`.
    pub(crate) fn hard(&mut self, blank: bool) {
        self.events.push(Event::Hard { blank });
    }

    /// A comment: nothing stands behind it on its line, and nothing before it if `own_line`.
    pub(crate) fn comment(&mut self, text: &str, own_line: bool) {
        self.events.push(Event::Comment { text: text.to_owned(), own_line });
    }

    /// The text in lines of `width` columns where that is possible, without a line end at its end.
    pub(crate) fn render(&self, width: usize) -> String {
        let needs = self.needs();
        let mut out = Output::default();
        // Of each open group: its level, and whether it is flat.
        let mut groups: Vec<(usize, bool)> = vec![];
        for (event, need) in self.events.iter().zip(needs) {
            let (level, flat) = groups.last().copied().unwrap_or((0, false));
            match event {
                Event::Text(text) => out.text(text, level),
                Event::Flat(text) => out.text(if flat { text } else { "" }, level),
                Event::Begin(levels) => {
                    let fits = need.is_some_and(|need| out.column(level) + need <= width);
                    groups.push((level + levels, flat || fits));
                }
                Event::End => {
                    groups.pop();
                }
                Event::Break { flat: text, .. } if flat && !out.closed => out.text(text, level),
                Event::Break { out: outward, .. } => out.line(level - usize::from(*outward && !flat), false),
                Event::Hard { blank } => out.line(level, *blank),
                Event::Comment { text, own_line } => out.comment(text, level, *own_line),
            }
        }
        out.text
    }

    /// For each `Begin`: the width of the group and of what follows up to the next break; nothing if a comment
    /// or a line end lies inside.
    fn needs(&self) -> Vec<Option<usize>> {
        let mut needs = vec![None; self.events.len()];
        // From here to the end of the text when flat, and to the next break; how many hard events follow.
        let (mut flat, mut tail, mut hard) = (0usize, 0usize, 0usize);
        let mut ends: Vec<(usize, usize, usize)> = vec![];
        for (i, event) in self.events.iter().enumerate().rev() {
            match event {
                Event::Text(text) => {
                    let width = text.chars().count();
                    flat += width;
                    tail += width;
                }
                Event::Flat(text) => {
                    flat += text.len();
                    tail += text.len();
                }
                Event::Break { flat: text, .. } => {
                    flat += text.len();
                    tail = 0;
                }
                Event::Hard { .. } | Event::Comment { .. } => {
                    hard += 1;
                    tail = 0;
                }
                Event::End => ends.push((flat, tail, hard)),
                Event::Begin(_) => {
                    if let Some((flat_behind, tail_behind, hard_behind)) = ends.pop()
                        && hard == hard_behind
                    {
                        needs[i] = Some(flat - flat_behind + tail_behind);
                    }
                }
            }
        }
        needs
    }
}

#[derive(Default)]
struct Output {
    text: String,
    /// Columns written on this line; 0 at its start.
    columns: usize,
    /// Indentation of a line that has just begun.
    level: usize,
    /// A comment ends this line.
    closed: bool,
}

impl Output {
    /// Where the next text of a group of this level will stand.
    fn column(&self, level: usize) -> usize {
        match (self.closed, self.columns) {
            (true, _) => 2 * level,
            (false, 0) => 2 * self.level,
            (false, columns) => columns,
        }
    }

    fn text(&mut self, text: &str, level: usize) {
        if self.closed {
            self.line(level, false);
        }
        if self.columns > 0 {
            self.text.push_str(text);
            self.columns += text.chars().count();
        } else if !text.trim_start().is_empty() {
            self.text.extend(std::iter::repeat_n("  ", self.level));
            self.text.push_str(text.trim_start());
            self.columns = 2 * self.level + text.trim_start().chars().count();
        }
    }

    /// Ends the line, if anything stands before it.
    fn line(&mut self, level: usize, blank: bool) {
        self.text.truncate(self.text.trim_end().len());
        if !self.text.is_empty() {
            self.text.push_str(if blank { "\n\n" } else { "\n" });
        }
        self.columns = 0;
        self.level = level;
        self.closed = false;
    }

    fn comment(&mut self, text: &str, level: usize, own_line: bool) {
        if self.columns > 0 && (own_line || self.closed) {
            self.line(level, false);
        }
        if self.columns > 0 {
            self.text.truncate(self.text.trim_end().len());
            self.text.push(' ');
        }
        self.text(text, level);
        self.closed = true;
    }
}
