//! Where the figures come from when somebody asks.

use futures::future::BoxFuture;
use std::sync::Arc;

type Write = dyn Fn() -> BoxFuture<'static, String> + Send + Sync;

/// Writes the page anew each time. Cheap to clone.
#[derive(Clone)]
pub struct MetricsPage(Arc<Write>);

impl std::fmt::Debug for MetricsPage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MetricsPage")
    }
}

impl MetricsPage {
    /// A page that `write` writes; its future ends soon, whatever it asks.
    pub fn new(write: impl Fn() -> BoxFuture<'static, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(write))
    }

    /// The figures as they are now.
    pub async fn text(&self) -> String {
        (self.0)().await
    }
}
