use chrono::Utc;

use super::*;
use crate::engine::{Outgoing, Token};
use crate::message::headers::Headers;
use crate::message::queue_name::QueueName;

/// A delivery of one message, with the receipt of this number.
fn delivery(number: i64) -> Delivery {
    let id = MessageId::Number(1);
    let message = Outgoing::new(QueueName::default(), "{}", Headers::new());
    let mut delivery = Delivery::stored(id.clone(), message, Utc::now());
    delivery.receipt = Receipt::new(id, Token::from_words([number]));
    delivery
}

fn leases() -> Leases {
    Leases::new(Duration::from_secs(30))
}

#[tokio::test]
async fn a_newer_delivery_stays_when_an_earlier_one_of_its_message_is_let_go() {
    let leases = leases();
    let earlier = delivery(1);
    let newer = delivery(2);
    let earlier_lease = leases.hold(&earlier, Instant::now()).unwrap();
    let newer_lease = leases.hold(&newer, Instant::now()).unwrap();
    assert!(!earlier_lease.is_held() && earlier_lease.is_cancelled());

    assert!(!leases.release(&earlier.receipt));
    assert!(leases.holds(&newer.receipt) && newer_lease.is_held());

    assert!(leases.release(&newer.receipt));
    assert!(!leases.holds(&newer.receipt) && !newer_lease.is_held());
}

#[tokio::test]
async fn a_lease_is_not_lost_while_its_settlement_is_on_its_way() {
    let leases = leases();
    let delivery = delivery(1);
    let lease = leases.hold(&delivery, Instant::now()).unwrap();
    leases.note_in_flight([&delivery.receipt].into_iter());
    assert!(!leases.lost(&delivery.receipt));
    assert!(lease.is_held() && !lease.is_cancelled());
}

#[tokio::test]
async fn a_lease_is_lost_while_the_settlement_of_an_earlier_delivery_is_on_its_way() {
    let leases = leases();
    let earlier = delivery(1);
    let newer = delivery(2);
    leases.hold(&earlier, Instant::now());
    leases.note_in_flight([&earlier.receipt].into_iter());

    let lease = leases.hold(&newer, Instant::now()).unwrap();
    leases.note_in_flight([&earlier.receipt].into_iter());
    assert!(leases.lost(&newer.receipt));
    assert!(!lease.is_held() && lease.is_cancelled());
}

#[tokio::test]
async fn everything_that_is_abandoned_is_let_go() {
    let leases = leases();
    let lease = leases.hold(&delivery(1), Instant::now()).unwrap();
    assert_eq!(leases.abandon(), 1);
    assert!(!lease.is_held() && lease.is_cancelled());
}
