//! From the driver's errors to ezq's kinds.
//!
//! | to see | open |
//! |---|---|
//! | which error of ezq a driver's error becomes | `conversion.rs` |
//! | what a SQLSTATE means | `codes.rs` |
//! | which table a statement missed | `missing.rs` |
//! | what became of a statement that took too long | `timeouts.rs` |

mod codes;
mod conversion;
pub(crate) mod missing;
mod timeouts;

pub(crate) use codes::{
    is_aborted, is_cancelled, is_conflict, is_data, is_isolated, is_login, is_name, is_no_number,
    is_of_row, is_permission, is_read_only, is_refusal, is_reshaped, is_unsupported,
    is_untranslatable, keeps_connection,
};
pub(crate) use conversion::{
    is_unsendable, kind, of, on_queue, queue_missing, read_only, timed_out, took_too_long,
};
pub(crate) use timeouts::{given_up, given_up_for, held_by, is_given_up, is_locked, is_lost};
