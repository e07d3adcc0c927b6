//! The filter of run lists: words and comparisons of fields, joined by AND, OR and NOT.
//!
//! | written | means |
//! |---|---|
//! | `lora` | the word stands in the name or the method |
//! | `method:lora`, `name:*-s1` | the field has the text, with `*` for anything |
//! | `method=lora`, `method!=lora` | the field is, or is not, exactly that |
//! | `seed=1`, `loss<3.5`, `rank>=64`, `tokens>10M` | numbers, with k, M, G |
//! | `state:!crashed`, `state:!/^c/`, `!crashed`, `NOT x`, `-x` | not |
//! | `a b`, `a AND b`, `a OR b`, `(a OR b) c` | both, either; AND binds closer |
//! | `has:val` | the field is there |
//! | `/swl-r(64|128)/`, `name:/^a/` | a regular expression; `\/` for a slash |

use super::model::RunModel;
use crate::formats::pattern::Pattern;
use crate::runlog::summary::RunRecord;

/// What a field of a run holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Field {
    /// Words.
    Text(String),
    /// A number.
    Number(f64),
}

/// Gives the fields that a filter names; none for a field that is not there.
pub trait Fields {
    /// The field of a name.
    fn field(&self, name: &str) -> Option<Field>;
}

/// Fields that filters know, for messages and completion.
pub const FIELDS: [&str; 13] = [
    "name", "method", "model", "data", "device", "state", "seed", "rank", "step", "tokens", "loss",
    "val", "tok/s",
];

/// Fields in which a word without a field's name is looked for.
const WORD_FIELDS: [&str; 3] = ["name", "method", "state"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Has,
    Is,
    IsNot,
    Less,
    LessOrSame,
    More,
    MoreOrSame,
}

#[derive(Debug, Clone, PartialEq)]
enum Term {
    All(Vec<Term>),
    Any(Vec<Term>),
    Not(Box<Term>),
    Word(String),
    Field(String, Relation, String),
    /// In a field, or in one of those that words are looked for in.
    Matches(Option<String>, Pattern),
}

/// A filter that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter(Term);

impl Filter {
    /// Reads a filter. Nothing lets everything through.
    ///
    /// Errors: a sentence for the user.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words = words(text)?;
        let mut reader = Reader { words: &words, at: 0, depth: 0 };
        let term = reader.any()?;
        match reader.next() {
            Some(extra) => Err(format!("`{extra}` closes nothing")),
            None => Ok(Self(term)),
        }
    }

    /// Whether a run passes.
    pub fn passes(&self, fields: &impl Fields) -> bool {
        self.0.passes(fields)
    }
}

/// Words and brackets of a filter; quotes hold a word with blanks together, and so do the slashes of an expression.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    let mut word = String::new();
    let mut is_quoted = false;
    let mut in_expression = false;
    for sign in text.chars() {
        match sign {
            sign if in_expression => {
                in_expression = sign != '/' || word.ends_with('\\');
                word.push(sign);
            }
            '/' if !is_quoted && (word.is_empty() || word.ends_with([':', '!', '-'])) => {
                in_expression = true;
                word.push(sign);
            }
            '"' => is_quoted = !is_quoted,
            ' ' | '(' | ')' if !is_quoted => {
                if !word.is_empty() {
                    all.push(std::mem::take(&mut word));
                }
                if sign != ' ' {
                    all.push(sign.into());
                }
            }
            sign => word.push(sign),
        }
    }
    if !word.is_empty() {
        all.push(word);
    }
    match (is_quoted, in_expression) {
        (true, _) => Err("a quote is not closed".into()),
        (_, true) => Err("a regular expression is not closed by /".into()),
        _ => Ok(all),
    }
}

/// How deep brackets and NOT may stand in one another: reading and asking go one call deeper with each.
const DEEPEST: usize = 64;

struct Reader<'a> {
    words: &'a [String],
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<&str> {
        self.words.get(self.at).map(String::as_str)
    }

    fn next(&mut self) -> Option<String> {
        let word = self.words.get(self.at).cloned();
        self.at += 1;
        word
    }

    fn any(&mut self) -> Result<Term, String> {
        let mut terms = vec![self.all()?];
        while self.peek() == Some("OR") {
            self.next();
            terms.push(self.all()?);
        }
        Ok(if terms.len() == 1 { terms.remove(0) } else { Term::Any(terms) })
    }

    fn all(&mut self) -> Result<Term, String> {
        let mut terms = Vec::new();
        let start = self.at;
        while let Some(word) = self.peek() {
            match word {
                ")" | "OR" => break,
                "AND" => {
                    self.next();
                    if terms.is_empty() || matches!(self.peek(), None | Some(")" | "OR" | "AND")) {
                        return Err("AND stands between two conditions".into());
                    }
                }
                _ => terms.push(self.one()?),
            }
        }
        let is_part = start > 0 || self.peek() == Some("OR");
        if terms.is_empty() && is_part {
            return Err("a condition is missing beside OR or inside the brackets".into());
        }
        Ok(Term::All(terms))
    }

    /// One condition, one deeper than what it stands in.
    fn one(&mut self) -> Result<Term, String> {
        if self.depth == DEEPEST {
            return Err(format!("brackets and NOT stand more than {DEEPEST} deep in one another"));
        }
        self.depth += 1;
        let term = self.whole();
        self.depth -= 1;
        term
    }

    fn whole(&mut self) -> Result<Term, String> {
        let Some(word) = self.next() else { return Err("NOT needs a condition after it".into()) };
        if word == "(" {
            let term = self.any()?;
            return match self.next().as_deref() {
                Some(")") => Ok(term),
                _ => Err("a bracket is not closed".into()),
            };
        }
        if word == "NOT" || word == "!" || word == "-" {
            if matches!(self.peek(), None | Some(")" | "OR" | "AND")) {
                return Err("NOT needs a condition after it".into());
            }
            return Ok(not(self.one()?));
        }
        condition(&word)
    }
}

fn condition(mut word: &str) -> Result<Term, String> {
    let mut is_not = false;
    while let Some(rest) = word.strip_prefix(['!', '-']).filter(|rest| !rest.is_empty()) {
        (word, is_not) = (rest, !is_not);
    }
    let term = plain(word)?;
    Ok(if is_not { not(term) } else { term })
}

fn not(term: Term) -> Term {
    Term::Not(Box::new(term))
}

/// A condition that no sign turns round.
fn plain(word: &str) -> Result<Term, String> {
    if let Some(pattern) = expression(word)? {
        return Ok(Term::Matches(None, pattern));
    }
    let Some(place) = word.find([':', '=', '<', '>', '!']) else {
        return Ok(Term::Word(word.to_lowercase()));
    };
    let (name, rest) = word.split_at(place);
    let relations = [
        ("!=", Relation::IsNot),
        ("<=", Relation::LessOrSame),
        (">=", Relation::MoreOrSame),
        (":", Relation::Has),
        ("=", Relation::Is),
        ("<", Relation::Less),
        (">", Relation::More),
    ];
    let found = relations.into_iter().find(|(sign, _)| rest.starts_with(sign));
    let Some((sign, relation)) = found else {
        return Err(format!("`{word}`: a field is compared by : = != < <= > or >="));
    };
    let (name, value) = (name.to_lowercase(), &rest[sign.len()..]);
    if name == "has" {
        known(value)?;
        return Ok(Term::Field(value.to_lowercase(), Relation::Has, "*".into()));
    }
    known(&name)?;
    if relation == Relation::Has {
        let (value, is_not) = value.strip_prefix('!').map_or((value, false), |rest| (rest, true));
        let term = match expression(value)? {
            Some(pattern) => Term::Matches(Some(name), pattern),
            None => Term::Field(name, relation, value.to_lowercase()),
        };
        return Ok(if is_not { not(term) } else { term });
    }
    let is_number = !matches!(relation, Relation::Is | Relation::IsNot);
    if is_number && number(value).is_none() {
        return Err(format!("`{word}`: `{value}` is no number"));
    }
    Ok(Term::Field(name, relation, value.to_lowercase()))
}

/// The regular expression between two slashes.
fn expression(word: &str) -> Result<Option<Pattern>, String> {
    let inside = word.strip_prefix('/').and_then(|rest| rest.strip_suffix('/'));
    inside.map(|text| Pattern::parse(&text.replace("\\/", "/"))).transpose()
}

fn known(name: &str) -> Result<(), String> {
    if FIELDS.contains(&name) {
        return Ok(());
    }
    let near = FIELDS.iter().min_by_key(|field| strsim::levenshtein(field, name));
    Err(format!("no field `{name}`; did you mean `{}`?", near.unwrap_or(&"name")))
}

/// A number with k, M or G.
fn number(text: &str) -> Option<f64> {
    let (digits, unit) = match text.chars().last()? {
        'k' | 'K' => (&text[..text.len() - 1], 1e3),
        'm' | 'M' => (&text[..text.len() - 1], 1e6),
        'g' | 'G' => (&text[..text.len() - 1], 1e9),
        _ => (text, 1.0),
    };
    digits.parse::<f64>().ok().map(|value| value * unit)
}

/// Whether a text holds a pattern: `*` stands for anything; without one, the pattern may stand anywhere.
fn holds(text: &str, pattern: &str) -> bool {
    if !pattern.contains('*') {
        return text.contains(pattern);
    }
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or("")) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(place) => rest = &rest[place + part.len()..],
            None => return false,
        }
    }
    true
}

impl Term {
    fn passes(&self, fields: &impl Fields) -> bool {
        match self {
            Self::All(terms) => terms.iter().all(|term| term.passes(fields)),
            Self::Any(terms) => terms.iter().any(|term| term.passes(fields)),
            Self::Not(term) => !term.passes(fields),
            Self::Matches(name, pattern) => {
                let names = match name {
                    Some(name) => std::slice::from_ref(name).iter().map(String::as_str).collect(),
                    None => WORD_FIELDS.to_vec(),
                };
                names.into_iter().any(|name| match fields.field(name) {
                    Some(Field::Text(text)) => pattern.matches(&text),
                    Some(Field::Number(number)) => pattern.matches(&number.to_string()),
                    None => false,
                })
            }
            Self::Word(word) => WORD_FIELDS.iter().any(|name| {
                matches!(fields.field(name), Some(Field::Text(text)) if holds(&text.to_lowercase(), word))
            }),
            Self::Field(name, relation, wanted) => {
                fields.field(name).is_some_and(|field| compare(&field, *relation, wanted))
            }
        }
    }
}

fn compare(field: &Field, relation: Relation, wanted: &str) -> bool {
    match field {
        Field::Text(text) => {
            let text = text.to_lowercase();
            match relation {
                Relation::Has => holds(&text, wanted),
                Relation::Is => text == wanted,
                Relation::IsNot => text != wanted,
                _ => false,
            }
        }
        Field::Number(value) => {
            let Some(wanted) = number(wanted) else {
                return relation == Relation::Has && wanted == "*";
            };
            match relation {
                Relation::Has | Relation::Is => *value == wanted,
                Relation::IsNot => *value != wanted,
                Relation::Less => *value < wanted,
                Relation::LessOrSame => *value <= wanted,
                Relation::More => *value > wanted,
                Relation::MoreOrSame => *value >= wanted,
            }
        }
    }
}

/// What a view shows for a filter's text: while it cannot be read, everything, with what is wrong.
pub fn read(text: &str) -> (Filter, Option<String>) {
    match Filter::parse(text) {
        Ok(filter) => (filter, None),
        Err(what) => (Filter(Term::All(Vec::new())), Some(what)),
    }
}

impl Fields for RunModel {
    fn field(&self, name: &str) -> Option<Field> {
        let run = &self.summary.run;
        let text = |text: &str| Some(Field::Text(text.to_owned()));
        match name {
            "name" => Some(Field::Text(self.name())),
            "method" => text(&run.method),
            "model" => text(&run.model),
            "data" => text(&run.data),
            "device" => text(&run.device),
            "state" => text(self.status.word()),
            "seed" => Some(Field::Number(run.seed as f64)),
            "rank" => run.rank.map(|rank| Field::Number(rank as f64)),
            "step" => Some(Field::Number(self.summary.step as f64)),
            "tokens" => Some(Field::Number(self.summary.tokens as f64)),
            "loss" => self.summary.loss.map(Field::Number),
            "val" => self.summary.last_eval().map(|eval| Field::Number(eval.loss)),
            "tok/s" => self.summary.tok_s().map(Field::Number),
            _ => None,
        }
    }
}

impl Fields for RunRecord {
    fn field(&self, name: &str) -> Option<Field> {
        let text = |text: &str| Some(Field::Text(text.to_owned()));
        match name {
            "name" => text(&self.name),
            "method" => text(&self.method),
            "model" => text(&self.model),
            "data" => text(&self.data),
            "device" => text(&self.device),
            "state" => text(self.status.word()),
            "seed" => Some(Field::Number(self.seed as f64)),
            "rank" => self.rank.map(|rank| Field::Number(rank as f64)),
            "step" => Some(Field::Number(self.step as f64)),
            "tokens" => Some(Field::Number(self.tokens as f64)),
            "loss" => self.loss.map(Field::Number),
            "val" => self.eval.map(|eval| Field::Number(eval.loss)),
            "tok/s" => self.tok_s.map(Field::Number),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Run(&'static str, &'static str, &'static str, f64, Option<f64>);

    impl Fields for Run {
        fn field(&self, name: &str) -> Option<Field> {
            match name {
                "name" => Some(Field::Text(self.0.into())),
                "method" => Some(Field::Text(self.1.into())),
                "state" => Some(Field::Text(self.2.into())),
                "seed" => Some(Field::Number(self.3)),
                "val" => self.4.map(Field::Number),
                _ => None,
            }
        }
    }

    fn passing(text: &str) -> String {
        let runs = [
            Run("a", "full", "finished", 1.0, Some(3.3)),
            Run("b", "switchlora", "live", 1.0, Some(3.4)),
            Run("c", "lora", "crashed", 2.0, None),
            Run("d", "lora-ga", "finished", 3.0, Some(4.0)),
        ];
        let filter = Filter::parse(text).unwrap();
        runs.iter().filter(|run| filter.passes(*run)).map(|run| run.0).collect()
    }

    #[test]
    fn each_form_lets_the_right_runs_through() {
        for (text, wanted) in [
            ("", "abcd"),
            ("  ", "abcd"),
            ("lora", "bcd"),
            ("LoRA", "bcd"),
            ("method:lora", "bcd"),
            ("method=lora", "c"),
            ("method!=lora", "abd"),
            ("method:*lora", "bc"),
            ("method:lora*", "cd"),
            ("method:s*h*a", "b"),
            ("state:!crashed", "abd"),
            ("!crashed", "abd"),
            ("-crashed", "abd"),
            ("NOT crashed", "abd"),
            ("method:lora state:!crashed", "bd"),
            ("method:lora AND state:!crashed", "bd"),
            ("seed=1 OR seed=3", "abd"),
            ("lora AND (seed=1 OR seed=3)", "bd"),
            ("seed=1 OR seed=2 crashed", "abc"),
            ("NOT (seed=1 OR seed=3)", "c"),
            ("seed>1", "cd"),
            ("seed<=2 seed>=2", "c"),
            ("seed!=1", "cd"),
            ("val<3.5", "ab"),
            ("has:val", "abd"),
            ("!has:val", "c"),
            ("\"lora\"", "bcd"),
            ("nothing", ""),
            ("/^lora/", "cd"),
            ("/LORA$/", "bc"),
            ("/^(full|lora)$/", "ac"),
            ("method:/^lora/ !state:/crash|live/", "d"),
            ("!/lora/", "a"),
            ("seed:/[13]/", "abd"),
            ("state:!/crash|live/", "ad"),
            ("!state:!/crash|live/", "bc"),
            ("!!crashed", "c"),
            ("-!-crashed", "abd"),
            ("NOT NOT crashed", "c"),
            ("((((lora))))", "bcd"),
            ("/lora-?ga/ OR /a b/", "d"),
        ] {
            assert_eq!(passing(text), wanted, "{text}");
        }
    }

    #[test]
    fn numbers_have_units() {
        assert_eq!(
            [number("10M"), number("2k"), number("1.5g"), number("x")],
            [Some(1e7), Some(2e3), Some(1.5e9), None]
        );
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for (text, what) in [
            ("(a", "not closed"),
            ("a )", "closes nothing"),
            ("a OR", "missing"),
            ("OR a", "missing"),
            ("AND a", "between"),
            ("a AND", "between"),
            ("NOT", "after it"),
            ("()", "missing"),
            ("metod:lora", "did you mean `method`"),
            ("seed<x", "no number"),
            ("\"a", "quote"),
            ("/a", "not closed"),
            ("name:/(a/", "no regular expression"),
        ] {
            let error = Filter::parse(text).unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
    }

    #[test]
    fn conditions_stand_in_one_another_so_deep_and_no_deeper() {
        let brackets = |deep: usize| format!("{}full{}", "(".repeat(deep), ")".repeat(deep));
        let nots = |deep: usize| format!("{}full", "NOT ".repeat(deep));
        for text in [brackets(63), nots(62)] {
            assert_eq!(passing(&text), "a", "{text}");
        }
        let paste = 1_000_000;
        for text in [
            brackets(64),
            brackets(paste),
            nots(64),
            nots(paste),
            "(".repeat(paste),
            "! ".repeat(paste) + "full",
            "NOT (".repeat(paste),
        ] {
            let error = Filter::parse(&text).unwrap_err();
            assert!(error.contains("more than 64 deep"), "{error}");
        }
        assert_eq!(passing(&format!("{}full", "!".repeat(paste))), "a");
        assert_eq!(passing(&format!("{}full", "-".repeat(paste + 1))), "bcd");
    }

    #[test]
    fn everything_stays_in_sight_while_a_filter_is_half_written() {
        let (filter, error) = read("seed=1 OR");
        assert!(error.is_some() && filter.passes(&Run("a", "", "", 7.0, None)));
        assert!(read("seed=1").1.is_none());
    }

    #[test]
    fn open_runs_and_those_of_the_folder_have_the_same_fields() {
        let app = crate::tui::fixture::app(crate::tui::theme::Theme::default());
        for field in FIELDS {
            assert!(app.runs[0].field(field).is_some(), "{field}");
            assert_eq!(app.runs[0].field(field).is_some(), app.browser[0].field(field).is_some());
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_fail_badly(text in "[a-z:=<>!()\" \\*ORANDT/+-]{0,24}") {
            if let Ok(filter) = Filter::parse(&text) {
                filter.passes(&Run("a", "lora", "live", 1.0, None));
            }
        }
    }
}
