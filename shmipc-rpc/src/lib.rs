//! shmipc-rpc.
