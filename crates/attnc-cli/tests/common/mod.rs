//! What the tests of the command line share.

/// The first drawing of a code among all that was said; each begins with a line that is its code.
pub(crate) fn drawing(said: &str, code: &str) -> Option<String> {
    let begins =
        |line: &str| line.len() == 5 && line.starts_with(['E', 'W']) && line[1..].bytes().all(|b| b.is_ascii_digit());
    let mut lines = said.lines().skip_while(|line| *line != code);
    let first = lines.next()?;
    let rest: Vec<&str> = lines.take_while(|line| !begins(line)).collect();
    Some(format!("{first}\n{}", rest.join("\n")))
}
