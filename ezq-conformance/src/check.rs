//! Assertions that end a case with what was seen. A panic would end the whole suite.

/// Ends the case unless something holds.
macro_rules! check {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            let what = format!($($what)+);
            let place = concat!(file!(), ":", line!());
            return Err($crate::error::CaseError::Failed(format!("{what} ({place})")));
        }
    };
}

/// Ends the case unless two values are the same.
macro_rules! check_eq {
    ($seen:expr, $wanted:expr, $($what:tt)+) => {
        // As in `assert_eq!`: each expression is evaluated once, and its temporaries live until
        // the comparison is done.
        match (&$seen, &$wanted) {
            (seen, wanted) => {
                check!(*seen == *wanted, "{}: expected {wanted:?}, saw {seen:?}", format!($($what)+));
            }
        }
    };
}
