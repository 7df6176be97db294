//! Numbers against independent references.
