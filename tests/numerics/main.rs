//! Numbers against independent references.
mod color;
