//! Tests that drive the program and its engine.
