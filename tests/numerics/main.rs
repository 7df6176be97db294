//! Numbers against independent references.

mod color;
mod reference;
mod resize;
