#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shmipc_transport::fuzzing::shmipc_session(data));
