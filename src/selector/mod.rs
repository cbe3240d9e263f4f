//! Calico's selector language: which labelled things a policy, a rule or a pool means.
//!
//! Pure. [`Selector::parse`] reads the text (`lexer` makes tokens, `parser` a tree), [`Selector::matches`] asks
//! the tree about a set of labels, and its `Display` is the canonical form, equal for selectors that were only
//! written differently. Facts are those of Calico's `libcalico-go/lib/selector/{tokenizer,parser}`.
//!
//! ```
//! use calico_libnetwork::selector::Selector;
//! let labels = [("rack".to_owned(), "r2".to_owned())].into();
//! assert!(Selector::parse("rack == 'r2' && !has(retired)").unwrap().matches(&labels));
//! ```

mod ast;
mod eval;
mod lexer;
mod parser;
mod print;

pub use ast::{Comparison, Selector};

/// Why a text is not a selector.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("selector {text:?} cannot be read at byte {at}: {why}")]
pub struct SelectorError {
    /// The whole text.
    pub text: String,
    /// Where reading stopped, in bytes from the start.
    pub at: usize,
    /// What is wrong there.
    pub why: &'static str,
}

#[cfg(test)]
mod tests;
