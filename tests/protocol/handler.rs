//! A handler that remembers what it is asked and answers as the test says.

use calico_libnetwork::protocol::{
    AddressAnswer, AddressSpaces, AllocateNetworkAnswer, CreateEndpointAnswer, GwAllocCheckAnswer,
    IpamCapabilities, NetworkCapabilities, OperInfoAnswer, PoolAnswer, Request, Response,
};
use calico_libnetwork::server::Handler;
use futures::future::BoxFuture;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

type Script = Box<dyn Fn(&Request) -> Act + Send + Sync>;

/// What to do with a call.
pub(crate) enum Act {
    /// Answer as a driver would.
    Answer,
    /// Answer after a while.
    After(Duration),
    /// Answer when told to.
    When(Arc<Notify>),
    /// Fail with this sentence.
    Fail(&'static str),
    /// Panic before there is a future.
    PanicAtOnce,
    /// Panic while it runs.
    PanicLater,
}

pub(crate) struct Scripted {
    script: Script,
    seen: Mutex<Vec<Request>>,
    ended: AtomicUsize,
}

impl Scripted {
    pub(crate) fn new(script: impl Fn(&Request) -> Act + Send + Sync + 'static) -> Arc<Self> {
        let script = Box::new(script);
        Arc::new(Self { script, seen: Mutex::default(), ended: AtomicUsize::new(0) })
    }

    /// Answers all calls at once.
    pub(crate) fn prompt() -> Arc<Self> {
        Self::new(|_| Act::Answer)
    }

    /// The calls so far, in order.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    /// How many calls ran to their end.
    pub(crate) fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }
}

impl Handler for Scripted {
    fn handle(&self, request: Request) -> BoxFuture<'_, Result<Response, String>> {
        self.seen.lock().unwrap().push(request.clone());
        let act = (self.script)(&request);
        if matches!(act, Act::PanicAtOnce) {
            panic!("the script says so");
        }
        Box::pin(async move {
            match act {
                Act::Answer | Act::PanicAtOnce => {}
                Act::After(pause) => tokio::time::sleep(pause).await,
                Act::When(told) => told.notified().await,
                Act::Fail(sentence) => return Err(sentence.to_owned()),
                Act::PanicLater => {
                    tokio::task::yield_now().await;
                    panic!("the script says so");
                }
            }
            self.ended.fetch_add(1, Ordering::SeqCst);
            Ok(answer(request))
        })
    }
}

fn answer(request: Request) -> Response {
    match request {
        Request::Activate => Response::Activate { implements: ["NetworkDriver", "IpamDriver"] },
        Request::NetworkCapabilities => Response::NetworkCapabilities(NetworkCapabilities {
            scope: "local",
            connectivity_scope: "global",
            gw_alloc_checker: true,
        }),
        Request::GwAllocCheck(_) => {
            Response::GwAllocCheck(GwAllocCheckAnswer { skip_ipv4: true, skip_ipv6: true })
        }
        Request::AllocateNetwork(call) => {
            Response::AllocateNetwork(AllocateNetworkAnswer { options: call.options })
        }
        Request::CreateEndpoint(_) => Response::CreateEndpoint(CreateEndpointAnswer::default()),
        Request::EndpointOperInfo(_) => Response::OperInfo(OperInfoAnswer::default()),
        Request::Join(_) => Response::Join(Box::default()),
        Request::IpamCapabilities => Response::IpamCapabilities(IpamCapabilities::default()),
        Request::AddressSpaces => Response::AddressSpaces(AddressSpaces {
            local_default_address_space: "Calico".to_owned(),
            global_default_address_space: "Calico".to_owned(),
        }),
        Request::RequestPool(_) => Response::Pool(PoolAnswer::default()),
        Request::RequestAddress(_) => Response::Address(AddressAnswer::default()),
        Request::FreeNetwork(_)
        | Request::CreateNetwork(_)
        | Request::DeleteNetwork(_)
        | Request::DeleteEndpoint(_)
        | Request::Leave(_)
        | Request::ProgramExternalConnectivity(_)
        | Request::RevokeExternalConnectivity(_)
        | Request::DiscoverNew(_)
        | Request::DiscoverDelete(_)
        | Request::ReleasePool(_)
        | Request::ReleaseAddress(_) => Response::Empty {},
    }
}
