//! Tokens to tree: `||` binds least, then `&&`, then `!`, which takes the whole comparison after it.

use super::SelectorError;
use super::ast::Selector;
use super::lexer::{self, Placed, Token};
use std::collections::BTreeSet;
use std::iter::Peekable;
use std::vec::IntoIter;

/// How deep parentheses and `!` may nest: far beyond any use, and far from the end of the stack.
const MAX_DEPTH: u32 = 64;

type Stopped = (usize, &'static str);

impl Selector {
    /// Reads a selector. An empty or blank text selects everything, as in every Calico resource.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let fail = |(at, why): Stopped| SelectorError { text: text.to_owned(), at, why };
        let tokens = lexer::tokens(text).map_err(fail)?;
        if tokens.is_empty() {
            return Ok(Self::All);
        }
        let mut parser = Parser { tokens: tokens.into_iter().peekable(), end: text.len(), depth: 0 };
        let selector = parser.or().map_err(fail)?;
        match parser.tokens.next() {
            None => Ok(selector),
            Some((at, _)) => Err(fail((at, "the selector should end here"))),
        }
    }
}

struct Parser {
    tokens: Peekable<IntoIter<Placed>>,
    end: usize,
    depth: u32,
}

impl Parser {
    /// Takes the next token if it is this one.
    fn eat(&mut self, token: &Token) -> bool {
        self.tokens.next_if(|(_, next)| next == token).is_some()
    }

    fn expect(&mut self, token: &Token, why: &'static str) -> Result<(), Stopped> {
        let at = self.at();
        if self.eat(token) { Ok(()) } else { Err((at, why)) }
    }

    fn at(&mut self) -> usize {
        self.tokens.peek().map_or(self.end, |(at, _)| *at)
    }

    fn or(&mut self) -> Result<Selector, Stopped> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err((self.at(), "the selector is nested too deeply"));
        }
        let mut parts = vec![self.and()?];
        while self.eat(&Token::Or) {
            parts.push(self.and()?);
        }
        self.depth -= 1;
        Ok(one_or(parts, Selector::Or))
    }

    fn and(&mut self) -> Result<Selector, Stopped> {
        let mut parts = vec![self.unary()?];
        while self.eat(&Token::And) {
            parts.push(self.unary()?);
        }
        Ok(one_or(parts, Selector::And))
    }

    fn unary(&mut self) -> Result<Selector, Stopped> {
        let mut negations = 0_u32;
        while self.eat(&Token::Not) {
            negations += 1;
        }
        if negations > MAX_DEPTH {
            return Err((self.at(), "the selector is nested too deeply"));
        }
        let operand = self.primary()?;
        Ok((0..negations).fold(operand, |inner, _| Selector::Not(Box::new(inner))))
    }

    fn primary(&mut self) -> Result<Selector, Stopped> {
        match self.tokens.next() {
            Some((_, Token::All)) => Ok(Selector::All),
            Some((_, Token::Global)) => Ok(Selector::Global),
            Some((_, Token::Has(label))) => Ok(Selector::Has(label)),
            Some((_, Token::OpenParen)) => {
                let inner = self.or()?;
                self.expect(&Token::CloseParen, "')' is expected")?;
                Ok(inner)
            }
            Some((_, Token::Label(label))) => self.comparison(label),
            Some((at, _)) => Err((at, "a label, has(), all() or '(' is expected")),
            None => Err((self.end, "the selector ends where a label, has(), all() or '(' is expected")),
        }
    }

    fn comparison(&mut self, label: String) -> Result<Selector, Stopped> {
        match self.tokens.next() {
            Some((_, Token::Compare(comparison))) => {
                Ok(Selector::Compare { label, comparison, text: self.text()? })
            }
            Some((_, Token::In)) => Ok(Selector::In { label, values: self.set()? }),
            Some((_, Token::NotIn)) => Ok(Selector::NotIn { label, values: self.set()? }),
            Some((at, _)) => Err((at, "an operator is expected after a label")),
            None => Err((self.end, "an operator is expected after a label")),
        }
    }

    fn text(&mut self) -> Result<String, Stopped> {
        match self.tokens.next() {
            Some((_, Token::Text(text))) => Ok(text),
            Some((at, _)) => Err((at, "a text in quotes is expected")),
            None => Err((self.end, "a text in quotes is expected")),
        }
    }

    /// `{}`, `{"a"}`, `{"a", "b",}`
    fn set(&mut self) -> Result<BTreeSet<String>, Stopped> {
        self.expect(&Token::OpenBrace, "'{' is expected")?;
        let mut values = BTreeSet::new();
        while !self.eat(&Token::CloseBrace) {
            values.insert(self.text()?);
            if !self.eat(&Token::Comma) {
                self.expect(&Token::CloseBrace, "',' or '}' is expected")?;
                break;
            }
        }
        Ok(values)
    }
}

fn one_or(mut parts: Vec<Selector>, many: impl FnOnce(Vec<Selector>) -> Selector) -> Selector {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        Some(last) => {
            parts.push(last);
            many(parts)
        }
        None => Selector::All,
    }
}
