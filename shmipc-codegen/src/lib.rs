//! shmipc-codegen.
