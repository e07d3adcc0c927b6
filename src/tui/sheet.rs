//! Numbers and words of a panel as rows with named columns, for files.

use serde_json::{Map, Value};

/// Rows of the same columns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sheet {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows with one value for each column; null for none.
    pub rows: Vec<Vec<Value>>,
}

impl Sheet {
    /// No rows yet.
    pub fn new(columns: &[&str]) -> Self {
        Self { columns: columns.iter().map(|name| (*name).to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, values: [Value; N]) {
        self.rows.push(values.into());
    }

    /// As text with commas; what holds a comma, a quote or a line's end stands in quotes.
    pub fn csv(&self) -> String {
        let mut text = line(self.columns.iter().map(|name| quoted(name)));
        for row in &self.rows {
            text += &line(row.iter().map(|value| match value {
                Value::Null => String::new(),
                Value::String(words) => quoted(words),
                other => other.to_string(),
            }));
        }
        text
    }

    /// As one object for each row.
    pub fn json(&self) -> Value {
        let object = |row: &Vec<Value>| {
            let fields = self.columns.iter().cloned().zip(row.iter().cloned());
            Value::Object(fields.collect::<Map<_, _>>())
        };
        self.rows.iter().map(object).collect()
    }
}

fn line(cells: impl Iterator<Item = String>) -> String {
    cells.collect::<Vec<_>>().join(",") + "\n"
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_lines_and_objects() {
        let mut sheet = Sheet::new(&["step", "what"]);
        sheet.row([1.into(), "a \"b\", c".into()]);
        sheet.row([Value::Null, 2.5.into()]);
        assert_eq!(sheet.csv(), "step,what\n1,\"a \"\"b\"\", c\"\n,2.5\n");
        assert_eq!(
            sheet.json().to_string(),
            r#"[{"step":1,"what":"a \"b\", c"},{"step":null,"what":2.5}]"#
        );
    }
}
