//! Tests of transport quic.

use super::super::contract::contract_suite;
use super::super::fixture::Loopback;

contract_suite!(
    Loopback::new(),
    #[tokio::test]
);
