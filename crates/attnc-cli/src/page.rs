//! The report of `attnc compare` as a page for a browser: one file that asks for nothing else.
//!
//! One idea: pictures stand in the page, masks as PNG in data URIs and curves as SVG; there is no script and no style
//! sheet from elsewhere, and every text is escaped. Nothing here measures.

use std::fmt::Write as _;

use attnc_host::Grid;

use crate::compare::{Compared, Figures, OfHead, Report, dense_in_words, percent};
use crate::machine;
use crate::report::{Failure, Outcome};

/// Pixels of a picture of a head.
const SIDE: i64 = 128;
/// Points of a curve, at most.
const POINTS: usize = 64;

/// The page.
pub(crate) fn page(report: &Report) -> Outcome<String> {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>attnc compare</title>\n<style>\n\
         body {{ font: 14px sans-serif; margin: 2em; color: #222 }}\n\
         table {{ border-collapse: collapse; margin: 1em 0 }}\n\
         th, td {{ padding: .3em .8em; text-align: right; border-bottom: 1px solid #ddd }}\n\
         th:first-child, td:first-child {{ text-align: left }}\n\
         figure {{ display: inline-block; margin: .5em }}\nfigcaption {{ font-size: 12px }}\n\
         img, svg {{ border: 1px solid #ddd; image-rendering: pixelated }}\n\
         </style>\n</head>\n<body>\n<h1>{}</h1>\n<p>Against {}. {}, {} cores.</p>\n",
        escaped(&report.input),
        dense_in_words(report.dense),
        escaped(&report.machine.cpu),
        report.machine.cores
    );
    html.push_str(
        "<table>\n<tr><th>pattern</th><th>layer</th><th>on</th><th>mass</th><th>by levels</th><th>error</th>\
         <th>density</th><th>time</th><th>x dense</th></tr>\n",
    );
    for r in &report.results {
        let time = r.run_ns.map_or("not timed".to_owned(), machine::time);
        let ratio = r.speedup_over_dense.map_or(String::new(), |x| format!("{x:.2}"));
        // Writing to a string does not fail.
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td>{}<td>{time}</td><td>{ratio}</td></tr>",
            escaped(&r.pattern),
            r.layer,
            escaped(&r.target),
            cells(&r.mean)
        );
    }
    html.push_str("</table>\n");
    for r in &report.results {
        section(&mut html, r)?;
    }
    html.push_str("</body>\n</html>\n");
    Ok(html)
}

fn cells(f: &Figures) -> String {
    let [mass, levels, density] = [f.mass, f.mass_by_levels, f.density].map(percent);
    format!("<td>{mass}</td><td>{levels}</td><td>{:.5}</td><td>{density}</td>", f.error)
}

fn section(html: &mut String, r: &Compared) -> Outcome {
    let masses: Vec<f64> = r.heads.iter().map(|h| h.figures.mass + h.figures.mass_by_levels).collect();
    let errors: Vec<f64> = r.heads.iter().map(|h| h.figures.error).collect();
    let _ = writeln!(html, "<h2>{}, layer {}</h2>", escaped(&r.pattern), r.layer);
    bars(html, "mass kept by each head", &masses, 1.0);
    bars(html, "error of each head", &errors, errors.iter().copied().filter(|e| e.is_finite()).fold(1e-12, f64::max));
    html.push_str("<div>\n");
    for head in &r.heads {
        picture(html, head)?;
    }
    html.push_str("</div>\n");
    Ok(())
}

/// Who attends to whom, and below it the mass that each query keeps.
fn picture(html: &mut String, head: &OfHead) -> Outcome {
    let kept = &head.seen.kept;
    let grid = Grid { cols: kept.cols, cells: kept.cells.clone(), exact: kept.side == 1 };
    let png = grid
        .png(SIDE)
        .map_err(|e| Failure::run("E0809", format!("a picture cannot be encoded: {e}"), "leave out --html"))?;
    let name = escaped(head.attention.as_deref().unwrap_or("skip"));
    let _ = writeln!(
        html,
        "<figure><img width=\"{SIDE}\" alt=\"keys of each query\" src=\"data:image/png;base64,{}\"><br>{}\
         <figcaption>head {}: {name}<br>mass {}, error {:.5}<br>density {}</figcaption></figure>",
        base64(&png),
        curve(&head.by_query),
        head.head,
        percent(head.figures.mass + head.figures.mass_by_levels),
        head.figures.error,
        percent(head.figures.density)
    );
    Ok(())
}

/// One bar for each head.
fn bars(html: &mut String, what: &str, values: &[f64], most: f64) {
    const WIDTH: usize = 12;
    let _ = write!(
        html,
        "<figure><svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"100\">",
        (values.len() * WIDTH).max(1)
    );
    for (i, value) in values.iter().enumerate() {
        let height = if value.is_finite() { (100.0 * value / most).clamp(0.0, 100.0) } else { 100.0 };
        let _ = write!(
            html,
            "<rect x=\"{}\" y=\"{:.1}\" width=\"{}\" height=\"{height:.1}\" fill=\"#1f4e9e\"><title>head {i}: {value:.5}</title></rect>",
            i * WIDTH,
            100.0 - height,
            WIDTH - 2
        );
    }
    let _ = writeln!(html, "</svg><figcaption>{what}</figcaption></figure>");
}

/// The mass that is kept, from the first query to the last.
fn curve(by_query: &[f64]) -> String {
    let part = by_query.len().div_ceil(POINTS).max(1);
    let means: Vec<f64> = by_query.chunks(part).map(|c| c.iter().sum::<f64>() / c.len() as f64).collect();
    let step = SIDE as f64 / means.len().max(1) as f64;
    let points: Vec<String> = (means.iter().enumerate())
        .map(|(i, mass)| format!("{:.1},{:.1}", (i as f64 + 0.5) * step, 41.0 - 40.0 * mass.clamp(0.0, 1.0)))
        .collect();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{SIDE}\" height=\"42\"><polyline fill=\"none\" stroke=\"#1f4e9e\" \
         points=\"{}\"/></svg>",
        points.join(" ")
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize];
            text.push(if i > group.len() { '=' } else { char::from(digit) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let of = |text: &str| base64(text.as_bytes());
        assert_eq!(
            ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(of),
            ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]
        );
    }

    #[test]
    fn texts_are_escaped() {
        assert_eq!(escaped("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
