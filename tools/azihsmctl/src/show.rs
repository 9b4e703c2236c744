// SPDX-License-Identifier: GPL-2.0
//! Text for people.

use std::fmt::Write;

/// Lines of a name and a value each, the values below one another.
pub fn rows(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().fold(String::new(), |mut text, (name, value)| {
        line(&mut text, &[(name, width), (value, 0)]);
        text
    })
}

/// A table with a heading.  All rows have as many cells as that.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            let cells = cells.map(|cell| cell.chars().count());
            cells.max().unwrap_or(0).max(heading[column].len())
        })
        .collect();
    let mut text = String::new();
    let cells: Vec<_> = heading
        .iter()
        .copied()
        .zip(widths.iter().copied())
        .collect();
    line(&mut text, &cells);
    for row in rows {
        let cells: Vec<_> = row
            .iter()
            .map(String::as_str)
            .zip(widths.iter().copied())
            .collect();
        line(&mut text, &cells);
    }
    text
}

/// Adds a line with cells of these widths, without spaces at its end.
fn line(text: &mut String, cells: &[(&str, usize)]) {
    let begin = text.len();
    for (cell, width) in cells {
        // Cannot fail: it is a string.
        let _ = write!(text, "{cell:width$}  ");
    }
    let end = text[begin..].trim_end().len();
    text.truncate(begin + end);
    text.push('\n');
}

/// Text from a device, without anything that a terminal would act on.
pub fn clean(text: &str) -> String {
    text.trim()
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::clean;
    use super::rows;
    use super::table;

    #[test]
    fn values_are_below_one_another() {
        let text = rows(&[
            ("a", "1".into()),
            ("long name", "2".into()),
            ("b", String::new()),
        ]);
        assert_eq!(text, "a          1\nlong name  2\nb\n");
    }

    #[test]
    fn columns_are_as_wide_as_need_be() {
        let rows = [
            vec!["x".into(), "a longer cell".into()],
            vec!["longer".into(), "y".into()],
        ];
        assert_eq!(
            table(&["NAME", "CELL"], &rows),
            "NAME    CELL\nx       a longer cell\nlonger  y\n"
        );
        assert_eq!(table(&["NAME", "CELL"], &[]), "NAME  CELL\n");
    }

    #[test]
    fn a_device_cannot_paint_the_terminal() {
        assert_eq!(clean("  \u{1b}[31mred\u{7} \n"), "?[31mred?");
    }
}
