//! Pictures of who attends to whom: a grid of densities, drawn for a terminal, as SVG or as PNG.
//!
//! One idea: every form is drawn from the same grid. A grid cell covers a rectangle of queries and keys and holds
//! the share of its pairs that are attended to; while everything fits, a cell is one pair. A cell of more than
//! 64 queries looks at that many of them, evenly spaced. Nothing here knows of files.

use std::fmt::Write as _;

use attnc::{Attended, EvalError, Run, View};

/// Rows of queries that a cell looks at, at most.
const SAMPLE: i64 = 64;

/// Densities.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Cells in a row.
    pub cols: usize,
    /// Row-major; 1 is every pair once, more is more than once.
    pub cells: Vec<f32>,
    /// Every cell is one pair.
    pub exact: bool,
}

impl Grid {
    /// At most `most` cells each way, over the given rows of queries and all keys.
    ///
    /// # Errors
    /// An expression that has no value under these lengths.
    pub fn new(view: &View<'_>, rows: std::ops::Range<i64>, most: i64) -> Result<Grid, EvalError> {
        let (_, n_k) = view.lengths();
        let n_q = rows.end - rows.start;
        let size = div_ceil(n_q.max(n_k), most).max(1);
        let (height, width) = (div_ceil(n_q, size), div_ceil(n_k, size));
        let mut walk = view.rows()?;
        let mut cells = vec![0.0_f32; usize::try_from(height * width).unwrap_or(0)];
        for cell_row in 0..height {
            let begin = rows.start + cell_row * size;
            let height = size.min(rows.end - begin);
            let looked = height.min(SAMPLE);
            let row = &mut cells[(cell_row * width) as usize..][..width as usize];
            for i in 0..looked {
                for run in walk.row(begin + i * height / looked)? {
                    cover(row, run, size, n_k, looked);
                }
            }
        }
        Ok(Grid { cols: usize::try_from(width).unwrap_or(0), cells, exact: size == 1 })
    }

    /// The same of rows that depend on the data. Keys that only a slot of a level stands for have their share of it.
    pub fn of_rows(attended: &Attended, rows: std::ops::Range<i64>, most: i64) -> Grid {
        let (n_q, n_k) = (rows.end - rows.start, attended.n_k);
        let size = div_ceil(n_q.max(n_k), most).max(1);
        let (height, width) = (div_ceil(n_q, size), div_ceil(n_k, size));
        let mut cells = vec![0.0_f32; usize::try_from(height * width).unwrap_or(0)];
        for (i, row) in (0..).zip(rows) {
            let Some(found) = usize::try_from(row).ok().and_then(|row| attended.rows.get(row)) else { continue };
            let cells = &mut cells[(i / size * width) as usize..][..width as usize];
            let looked = size.min(n_q - i / size * size);
            found.tokens.iter().for_each(|run| cover(cells, run, size, n_k, looked));
            for &(k, share) in &found.shares {
                if !found.tokens.iter().any(|run| (run.first..=run.last).contains(&k)) {
                    let run = Run { first: k, last: k, times: 1 };
                    let mut whole = vec![0.0; cells.len()];
                    cover(&mut whole, &run, size, n_k, looked);
                    cells.iter_mut().zip(whole).for_each(|(cell, whole)| *cell += whole * share.min(1.0));
                }
            }
        }
        Grid { cols: usize::try_from(width).unwrap_or(0), cells, exact: size == 1 }
    }

    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        // Without keys there are no cells and no rows to draw.
        self.cells.chunks(self.cols.max(1))
    }

    /// For a terminal: two characters a cell, so that cells are about square.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for row in self.rows() {
            for &density in row {
                let c = glyph(density, self.exact);
                text.extend([c, c]);
            }
            text.push('\n');
        }
        text
    }

    /// As SVG, about `width` pixels wide; equal neighbours in a row are one rectangle.
    #[must_use]
    pub fn svg(&self, width: i64) -> String {
        let height = self.cells.len() / self.cols.max(1);
        let side = (width / (self.cols.max(height).max(1) as i64)).max(1);
        let (w, h) = (self.cols as i64 * side, height as i64 * side);
        let mut svg = String::new();
        // Writing to a string does not fail.
        let _ = writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {} {height}\" \
             shape-rendering=\"crispEdges\">",
            self.cols
        );
        let _ = writeln!(svg, "<rect width=\"{}\" height=\"{height}\" fill=\"#eef1f5\"/>", self.cols);
        for (y, row) in self.rows().enumerate() {
            let mut x = 0;
            for same in row.chunk_by(|a, b| a == b) {
                if same[0] > 0.0 {
                    let opacity = f64::from(same[0].min(1.0));
                    let shade = if opacity < 1.0 { format!(" fill-opacity=\"{opacity:.3}\"") } else { String::new() };
                    let fill = if same[0] > 1.0 { "#b3261e" } else { "#1f4e9e" };
                    let _ = writeln!(
                        svg,
                        "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"1\" fill=\"{fill}\"{shade}/>",
                        same.len()
                    );
                }
                x += same.len();
            }
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// As PNG in shades of grey, about `width` pixels wide; attended pairs are dark.
    ///
    /// # Errors
    /// A picture that is too large for the format.
    pub fn png(&self, width: i64) -> Result<Vec<u8>, png::EncodingError> {
        let height = self.cells.len() / self.cols.max(1);
        let side = usize::try_from(width).unwrap_or(1) / self.cols.max(height).max(1);
        let side = side.max(1);
        let mut pixels = Vec::with_capacity(self.cells.len() * side * side);
        for row in self.rows() {
            let line: Vec<u8> = row
                .iter()
                .flat_map(|d| std::iter::repeat_n(255 - (d.clamp(0.0, 1.0) * 255.0).round() as u8, side))
                .collect();
            (0..side).for_each(|_| pixels.extend(&line));
        }
        // A picture has at least one pixel.
        let (w, h) = ((self.cols * side).max(1), (height * side).max(1));
        pixels.resize(w * h, 255);
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, w as u32, h as u32);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&pixels)?;
        writer.finish()?;
        Ok(bytes)
    }
}

/// How many parts of `size` cover `n`; both are not negative, and a size of 0 counts as 1.
fn div_ceil(n: i64, size: i64) -> i64 {
    n / size.max(1) + i64::from(n % size.max(1) > 0)
}

/// Adds a run of keys to a row of cells.
fn cover(row: &mut [f32], run: &Run, size: i64, n_k: i64, looked: i64) {
    let mut at = run.first;
    while at <= run.last {
        let cell = at / size;
        let (begin, end) = (cell * size, (cell * size + size).min(n_k));
        let upto = end.min(run.last + 1);
        let share = (upto - at) as f32 / ((end - begin) * looked) as f32;
        row[cell as usize] += share * run.times as f32;
        at = upto;
    }
}

fn glyph(density: f32, exact: bool) -> char {
    // Sums of shares of a full cell may miss 1 by rounding.
    const FULL: f32 = 1.0 - 1e-4;
    match density {
        d if d <= 0.0 => '·',
        d if exact && d > 1.0 => char::from_digit(d as u32, 10).unwrap_or('+'),
        d if d <= 0.25 => '░',
        d if d <= 0.5 => '▒',
        d if d < FULL => '▓',
        _ => '█',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_cells_add_up() {
        let mut row = [0.0; 3];
        // 10 keys in cells of 4: the last cell has 2.
        cover(&mut row, &Run { first: 2, last: 8, times: 1 }, 4, 10, 1);
        assert_eq!(row, [0.5, 1.0, 0.5]);
        cover(&mut row, &Run { first: 0, last: 1, times: 2 }, 4, 10, 1);
        assert_eq!(row[0], 1.5);
    }

    #[test]
    fn drawings_have_the_size_of_the_grid() {
        let grid = Grid { cols: 2, cells: vec![0.0, 1.0, 0.4, 2.0], exact: true };
        assert_eq!(grid.text(), "··██\n▒▒22\n");
        let svg = grid.svg(100);
        assert!(svg.contains("width=\"100\" height=\"100\"") && svg.contains("fill-opacity=\"0.400\""));
        let png = grid.png(100).expect("encodes");
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().expect("decodes");
        let mut pixels = vec![0; reader.output_buffer_size().expect("fits")];
        let info = reader.next_frame(&mut pixels).expect("decodes");
        assert_eq!((info.width, info.height, pixels[0], pixels[99]), (100, 100, 255, 0));
    }

    #[test]
    fn nothing_is_a_picture_too() {
        let grid = Grid { cols: 0, cells: vec![], exact: true };
        assert_eq!(grid.text(), "");
        assert!(grid.svg(10).ends_with("</svg>\n"));
        assert!(grid.png(10).is_ok());
    }
}
