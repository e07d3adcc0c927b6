//! t
#[path = "methods/fixture.rs"]
mod fixture;
#[path = "methods/switch.rs"]
mod switch;
