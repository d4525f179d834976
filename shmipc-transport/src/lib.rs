//! shmipc-transport.
