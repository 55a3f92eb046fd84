#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| tributary_redirector::fuzzing::webhooks(input));

#[cfg(not(fuzzing))]
fn main() {}
