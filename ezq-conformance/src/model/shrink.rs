//! Draws sequences, and makes one that fails as short and simple as possible.

use proptest::strategy::{BoxedStrategy, Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::operation::{Operation, operation};
use super::play::Play;
use super::report::ModelReport;
use crate::Harness;
use crate::error::CaseError;

/// The largest number of operations in one sequence.
const LONGEST: usize = 200;
/// The number of attempts to shorten a sequence, after which the shortest so far is good enough.
const TRIES: usize = 500;

type Tree = <BoxedStrategy<Operation> as Strategy>::Tree;

/// A sequence that can be made shorter.
pub(super) struct Sequence(Vec<Tree>);

/// The shortest failing sequence that was found, and its failure.
pub(super) struct Failing {
    pub(super) operations: Vec<Operation>,
    pub(super) error: CaseError,
}

impl Sequence {
    /// The sequence of a seed, cut to `at_most` operations.
    pub(super) fn draw(seed: u64, at_most: usize) -> Self {
        // ChaCha takes a seed of 32 bytes.
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let operation = operation();
        let trees = (0..LONGEST.min(at_most)).map_while(|_| operation.new_tree(&mut runner).ok());
        Self(trees.collect())
    }

    fn operations(&self) -> Vec<Operation> {
        self.0.iter().map(ValueTree::current).collect()
    }

    /// Plays the sequence. If it fails, the error has the shortest sequence that fails as well.
    pub(super) async fn run(
        mut self,
        harness: &dyn Harness,
        report: &mut ModelReport,
    ) -> Result<(), Failing> {
        let Err((at, error)) = Play::run(harness, &self.operations(), report).await else {
            return Ok(());
        };

        // What comes after the failure cannot have caused it.
        self.0.truncate(at + 1);
        let mut shrinking = Shrinking {
            harness,
            sequence: self,
            error,
            tries: TRIES,
        };
        // A skipped sequence is not a failure, and any shorter one is skipped as well.
        if !matches!(shrinking.error, CaseError::Skipped(_)) {
            shrinking.drop_runs().await;
            shrinking.simplify_each().await;
            // Simpler operations may have made others superfluous.
            shrinking.drop_runs().await;
        }
        Err(Failing {
            operations: shrinking.sequence.operations(),
            error: shrinking.error,
        })
    }
}

struct Shrinking<'h> {
    harness: &'h dyn Harness,
    sequence: Sequence,
    error: CaseError,
    tries: usize,
}

impl Shrinking<'_> {
    /// The index of the operation at which a sequence fails, if it fails.
    async fn fails(&mut self, operations: &[Operation]) -> Option<usize> {
        self.tries = self.tries.checked_sub(1)?;
        let played = Play::run(self.harness, operations, &mut ModelReport::default()).await;
        let (at, error) = played.err()?;
        self.error = error;
        Some(at)
    }

    /// Leaves out runs of operations, long ones first, as long as the rest still fails.
    async fn drop_runs(&mut self) {
        // From halves to single operations, as in delta debugging: most of a sequence is not
        // needed for the failure.
        let mut run = self.sequence.0.len().div_ceil(2);
        while run > 0 {
            let before = self.sequence.0.len();
            let mut end = before;
            while end > 0 {
                let start = end.saturating_sub(run);
                let mut without = self.sequence.operations();
                without.drain(start..end.min(without.len()));
                if let Some(at) = self.fails(&without).await {
                    self.sequence.0.drain(start..end.min(self.sequence.0.len()));
                    self.sequence.0.truncate(at + 1);
                }
                end = start.min(self.sequence.0.len());
            }

            let shorter = self.sequence.0.len() < before;
            // Single operations are tried until a pass removes none: each removal may free another.
            if !(shorter && run == 1) {
                run /= 2;
            }
        }
    }

    /// Simplifies each operation as far as the sequence still fails, by proptest's binary search.
    async fn simplify_each(&mut self) {
        for index in 0..self.sequence.0.len() {
            let mut simpler = self.sequence.0[index].simplify();
            while simpler {
                let operations = self.sequence.operations();
                simpler = if self.fails(&operations).await.is_some() {
                    self.sequence.0[index].simplify()
                } else {
                    self.sequence.0[index].complicate()
                };
                if self.tries == 0 {
                    break;
                }
            }
        }
    }
}
