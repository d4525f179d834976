#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shmipc_rpc::fuzzing::compressed_message(data));
