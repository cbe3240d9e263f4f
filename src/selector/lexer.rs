//! Text to tokens.
//!
//! Words such as `in` and `contains` are operators only right after a label, so that labels may have these names:
//! the lexer therefore knows what the token before was.

use super::ast::Comparison;

/// The longest label name, in bytes.
const MAX_LABEL: usize = 512;

/// The smallest unit of the language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    OpenParen,
    CloseParen,
    OpenBrace,
    CloseBrace,
    Comma,
    Not,
    And,
    Or,
    All,
    Global,
    Has(String),
    Label(String),
    Text(String),
    Compare(Comparison),
    In,
    NotIn,
}

/// A token and the byte at which it begins.
pub(super) type Placed = (usize, Token);

/// All tokens of a text, or the byte and the reason at which reading stopped.
pub(super) fn tokens(text: &str) -> Result<Vec<Placed>, (usize, &'static str)> {
    let mut found: Vec<Placed> = Vec::new();
    let mut rest = blank(text);
    while !rest.is_empty() {
        let at = text.len() - rest.len();
        let after_label = matches!(found.last(), Some((_, Token::Label(_))));
        let (token, after) = token(rest, after_label).map_err(|why| (at, why))?;
        found.push((at, token));
        rest = blank(after);
    }
    Ok(found)
}

/// What follows leading blanks. A line end is no blank.
fn blank(text: &str) -> &str {
    text.trim_start_matches([' ', '\t'])
}

const PLAIN: [(&str, Token); 10] = [
    ("==", Token::Compare(Comparison::Equal)),
    ("!=", Token::Compare(Comparison::NotEqual)),
    ("&&", Token::And),
    ("||", Token::Or),
    ("!", Token::Not),
    ("(", Token::OpenParen),
    (")", Token::CloseParen),
    ("{", Token::OpenBrace),
    ("}", Token::CloseBrace),
    (",", Token::Comma),
];

/// Operators of one or two words; between the words there may be blanks or nothing.
const WORDS: [(&str, &str, Token); 5] = [
    ("contains", "", Token::Compare(Comparison::Contains)),
    ("starts", "with", Token::Compare(Comparison::StartsWith)),
    ("ends", "with", Token::Compare(Comparison::EndsWith)),
    ("not", "in", Token::NotIn),
    ("in", "", Token::In),
];

fn token(rest: &str, after_label: bool) -> Result<(Token, &str), &'static str> {
    if let Some((token, after)) =
        PLAIN.iter().find_map(|(text, token)| Some((token, rest.strip_prefix(text)?)))
    {
        return Ok((token.clone(), after));
    }
    if let Some(after) = rest.strip_prefix('\'') {
        return string(after, '\'');
    }
    if let Some(after) = rest.strip_prefix('"') {
        return string(after, '"');
    }
    if after_label {
        return operator(rest).ok_or("an operator is expected after a label");
    }
    call(rest).unwrap_or_else(|| label(rest).map(|(name, after)| (Token::Label(name), after)))
}

fn string(rest: &str, quote: char) -> Result<(Token, &str), &'static str> {
    let (text, after) = rest.split_once(quote).ok_or("the text has no closing quote")?;
    Ok((Token::Text(text.to_owned()), after))
}

fn operator(rest: &str) -> Option<(Token, &str)> {
    WORDS.iter().find_map(|(first, second, token)| {
        let after = rest.strip_prefix(first)?;
        let after = if second.is_empty() { after } else { blank(after).strip_prefix(second)? };
        Some((token.clone(), after))
    })
}

/// `has(…)`, `all()` and `global()`: no blank before the parenthesis, any inside. `None` if it is none of them.
fn call(rest: &str) -> Option<Result<(Token, &str), &'static str>> {
    let close = |after| blank(after).strip_prefix(')').ok_or("')' is expected");
    if let Some(inside) = rest.strip_prefix("all(") {
        return Some(close(inside).map(|after| (Token::All, after)));
    }
    if let Some(inside) = rest.strip_prefix("global(") {
        return Some(close(inside).map(|after| (Token::Global, after)));
    }
    let inside = rest.strip_prefix("has(")?;
    Some(label(blank(inside)).and_then(|(name, after)| Ok((Token::Has(name), close(after)?))))
}

fn label(rest: &str) -> Result<(String, &str), &'static str> {
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_./-".contains(c))).unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    match name.len() {
        0 => Err("this character cannot stand here"),
        1..=MAX_LABEL => Ok((name.to_owned(), after)),
        _ => Err("a label name has at most 512 characters"),
    }
}
