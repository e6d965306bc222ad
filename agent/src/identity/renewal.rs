//! When a certificate is renewed.

use kawanan_api::Timestamp;

/// The part of its life after which a certificate is renewed at the earliest, and the width of the window in which
/// nodes spread: 50 to 70 percent, so that the nodes of one afternoon do not all come back on one afternoon, and a
/// third of the life is left for a leader that cannot be reached.
const EARLIEST: f64 = 0.5;
const SPREAD: f64 = 0.2;

/// The instant at which to renew a certificate that is valid from `not_before` to `not_after`. `share` in 0..=1 is the
/// node's random place in the window; draw it once per certificate.
pub fn renew_at(not_before: Timestamp, not_after: Timestamp, share: f64) -> Timestamp {
    let share = if share.is_nan() {
        0.0
    } else {
        share.clamp(0.0, 1.0)
    };
    let life = not_after.since(not_before);
    not_before.saturating_add(life.mul_f64(EARLIEST + SPREAD * share))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn renewal_falls_between_half_and_seven_tenths_of_life(
            from in 0u64..4_000_000_000_000,
            life in 0u64..400_000_000_000,
            share: f64,
        ) {
            let at = renew_at(
                Timestamp::from_millis(from),
                Timestamp::from_millis(from + life),
                share,
            );
            let after = at.millis() - from;
            prop_assert!(after + 1 >= life / 2 && after <= life * 7 / 10 + 1, "{after} of {life}");
        }
    }

    #[test]
    fn a_certificate_that_ends_before_it_begins_is_renewed_at_once() {
        let begin = Timestamp::from_millis(5000);
        assert_eq!(renew_at(begin, Timestamp::default(), 0.7), begin);
    }
}
