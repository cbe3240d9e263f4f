//! policy
mod hash;
mod label_index;
mod restriction;
