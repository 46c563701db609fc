//! A test double: function tables all of whose entries answer an error, and libraries with wrong versions.
//!
//! The caller takes a [`table`], replaces the entries it wants to play, and [`open`]s it through the same version gate
//! that real libraries pass.

use crate::{
    GetProviders, GetSystemProviders, HtpLibrary, InterfaceTable, LoadError, Qnn_ApiVersion_t, Qnn_ErrorHandle_t,
    Qnn_Version_t, QnnInterface_t, QnnSystemInterface_t, SystemLibrary, SystemTable, TABLE_MINOR,
};
use std::{
    cell::Cell,
    ffi::CStr,
    ptr::{addr_of_mut, null, null_mut},
    sync::atomic::{AtomicU64, Ordering},
};

/// What every entry answers.
static ANSWER: AtomicU64 = AtomicU64::new(1100);

/// Sets the code that all entries which nobody replaced answer, in the whole process; 1100 before the first call.
pub fn set_answer(code: Qnn_ErrorHandle_t) {
    ANSWER.store(code, Ordering::Relaxed);
}

/// An entry that answers the code, for a signature.
trait Answering {
    fn answering() -> Self;
}

macro_rules! answering {
    ($($arg:ident)*) => {
        impl<$($arg),*> Answering for Option<unsafe extern "C" fn($($arg),*) -> Qnn_ErrorHandle_t> {
            fn answering() -> Self {
                unsafe extern "C" fn answer<$($arg),*>($(_: $arg),*) -> Qnn_ErrorHandle_t {
                    ANSWER.load(Ordering::Relaxed)
                }
                Some(answer::<$($arg),*>)
            }
        }
    };
}

answering!();
answering!(A);
answering!(A B);
answering!(A B C);
answering!(A B C D);
answering!(A B C D E);
answering!(A B C D E F);
answering!(A B C D E F G);
answering!(A B C D E F G H);
answering!(A B C D E F G H I);
answering!(A B C D E F G H I J);
answering!(A B C D E F G H I J K);

macro_rules! fill {
    ($table:ident: $($name:ident)*) => { $( $table.$name = Answering::answering(); )* };
}

/// A backend's table; every entry of API 2.32 answers the code set by [`set_answer`].
#[must_use]
pub fn table() -> InterfaceTable {
    let mut table = InterfaceTable::default();
    fill! { table:
        propertyHasCapability backendCreate backendSetConfig backendGetApiVersion backendGetBuildId
        backendRegisterOpPackage backendGetSupportedOperations backendValidateOpConfig backendFree contextCreate
        contextSetConfig contextGetBinarySize contextGetBinary contextCreateFromBinary contextFree graphCreate
        graphCreateSubgraph graphSetConfig graphAddNode graphFinalize graphRetrieve graphExecute
        graphExecuteAsync tensorCreateContextTensor tensorCreateGraphTensor logCreate logSetLogLevel logFree
        profileCreate profileSetConfig profileGetEvents profileGetSubEvents profileGetEventData
        profileGetExtendedEventData profileFree memRegister memDeRegister deviceGetPlatformInfo
        deviceFreePlatformInfo deviceGetInfrastructure deviceCreate deviceSetConfig deviceGetInfo deviceFree
        signalCreate signalSetConfig signalTrigger signalFree errorGetMessage errorGetVerboseMessage
        errorFreeVerboseMessage graphPrepareExecutionEnvironment graphReleaseExecutionEnvironment
        graphGetProperty contextValidateBinary contextCreateFromBinaryWithSignal
        contextCreateFromBinaryListAsync tensorUpdateGraphTensors tensorUpdateContextTensors
        contextGetBinarySectionSize contextGetBinarySection contextApplyBinarySection backendGetProperty
        contextGetProperty contextGetIncrementalBinary contextReleaseIncrementalBinary contextFinalize
        globalConfigSet contextCreateFromBinaryWithCallback contextGetBinarySectionUpdate
        contextFreeBinarySectionUpdate
    }
    table
}

/// libQnnSystem's table; every entry of API 1.7 answers the code set by [`set_answer`].
#[must_use]
pub fn system_table() -> SystemTable {
    let mut table = SystemTable::default();
    fill! { table:
        systemContextCreate systemContextGetBinaryInfo systemContextGetMetaData systemContextFree
        systemTensorGetMemoryFootprint systemLogCreate systemLogSetLogLevel systemLogFree
        systemDlcCreateFromFile systemDlcCreateFromBinary systemDlcComposeGraphs systemDlcGetOpMappings
        systemDlcFree systemProfileCreateSerializationTarget systemProfileSerializeEventData
        systemProfileFreeSerializationTarget
    }
    table
}

/// One provider of a fake backend library. The default is HTP in the versions of Qualcomm's library 2.51.
#[derive(Clone, Copy)]
pub struct Provider {
    /// Name; `None` is a null pointer.
    pub name: Option<&'static CStr>,
    /// Backend id.
    pub backend_id: u32,
    /// Core API version (major, minor, patch).
    pub core: (u32, u32, u32),
    /// Backend API version.
    pub backend: (u32, u32, u32),
    /// The functions.
    pub table: InterfaceTable,
}

impl Default for Provider {
    fn default() -> Self {
        let core = (2, TABLE_MINOR.max(40), 0);
        Self { name: Some(c"HTP_QTI_AISW"), backend_id: 6, core, backend: (5, 51, 0), table: table() }
    }
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, backend_id, core, backend, table: _ } = self;
        write!(f, "{name:?} id {backend_id} core {core:?} backend {backend:?}")
    }
}

/// What a fake entry point answers.
struct Answer<T> {
    list: *mut *const T,
    count: u32,
    handle: Qnn_ErrorHandle_t,
}

// Not derived: `T` need not be copied for that.
impl<T> Clone for Answer<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Answer<T> {}

impl<T> Answer<T> {
    /// A list that lives for ever, as a library's does. `None` is a null pointer in the list.
    fn list(providers: impl Iterator<Item = Option<T>>) -> Self {
        let list: Vec<*const T> = providers.map(|p| p.map_or(null(), |p| &raw const *Box::leak(Box::new(p)))).collect();
        let list = Box::leak(list.into_boxed_slice());
        Self { list: list.as_mut_ptr(), count: u32::try_from(list.len()).unwrap_or(u32::MAX), handle: 0 }
    }
}

thread_local! {
    static NEXT: Cell<Answer<QnnInterface_t>> = const { Cell::new(Answer { list: null_mut(), count: 0, handle: 0 }) };
    static NEXT_SYSTEM: Cell<Answer<QnnSystemInterface_t>> =
        const { Cell::new(Answer { list: null_mut(), count: 0, handle: 0 }) };
}

/// Opens a fake library that offers one HTP provider of known versions with this table.
///
/// # Errors
/// None, as long as the gate accepts the versions of [`Provider::default`].
pub fn open(table: InterfaceTable) -> Result<HtpLibrary, LoadError> {
    open_providers(&[Some(Provider { table, ..Provider::default() })])
}

/// Opens a fake library that offers these providers; `None` is a null pointer in its list.
///
/// # Errors
/// As [`HtpLibrary::open`], for versions the gate refuses.
pub fn open_providers(providers: &[Option<Provider>]) -> Result<HtpLibrary, LoadError> {
    open_answer(Answer::list(providers.iter().map(|p| p.as_ref().map(interface))))
}

/// Opens a fake library that answers `handle` and a null list when asked for its providers.
///
/// # Errors
/// Always [`LoadError::Providers`].
pub fn open_without_list(handle: Qnn_ErrorHandle_t, count: u32) -> Result<HtpLibrary, LoadError> {
    open_answer(Answer { list: null_mut(), count, handle })
}

fn open_answer(answer: Answer<QnnInterface_t>) -> Result<HtpLibrary, LoadError> {
    NEXT.set(answer);
    let get: GetProviders = get_providers;
    // SAFETY: the list and its structs are leaked, and `Provider` fills whole structs of this build's own layout.
    unsafe { HtpLibrary::from_provider(get) }
}

/// Opens a fake libQnnSystem with this version and table.
///
/// # Errors
/// [`LoadError::Version`] for a version the gate refuses.
pub fn open_system(version: (u32, u32, u32), table: SystemTable) -> Result<SystemLibrary, LoadError> {
    let mut provider = QnnSystemInterface_t {
        providerName: c"SYSTEM_QTI_AISW".as_ptr(),
        systemApiVersion: qnn_version(version),
        ..QnnSystemInterface_t::default()
    };
    // SAFETY: the union is as large as its largest table, this one, and begins where it does.
    unsafe { addr_of_mut!(provider.__bindgen_anon_1).cast::<SystemTable>().write(table) };
    NEXT_SYSTEM.set(Answer::list(std::iter::once(Some(provider))));
    let get: GetSystemProviders = get_system_providers;
    // SAFETY: as in `open_answer`.
    unsafe { SystemLibrary::from_provider(get) }
}

fn interface(provider: &Provider) -> QnnInterface_t {
    let mut interface = QnnInterface_t {
        backendId: provider.backend_id,
        providerName: provider.name.map_or(null(), CStr::as_ptr),
        apiVersion: Qnn_ApiVersion_t {
            coreApiVersion: qnn_version(provider.core),
            backendApiVersion: qnn_version(provider.backend),
        },
        ..QnnInterface_t::default()
    };
    // SAFETY: the union is as large as its largest table, this one, and begins where it does.
    unsafe { addr_of_mut!(interface.__bindgen_anon_1).cast::<InterfaceTable>().write(provider.table) };
    interface
}

fn qnn_version((major, minor, patch): (u32, u32, u32)) -> Qnn_Version_t {
    Qnn_Version_t { major, minor, patch }
}

/// # Safety
/// Both pointers must be valid for writes.
unsafe extern "C" fn get_providers(list: *mut *mut *const QnnInterface_t, count: *mut u32) -> Qnn_ErrorHandle_t {
    let answer = NEXT.get();
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        list.write(answer.list);
        count.write(answer.count);
    }
    answer.handle
}

/// # Safety
/// Both pointers must be valid for writes.
unsafe extern "C" fn get_system_providers(
    list: *mut *mut *const QnnSystemInterface_t,
    count: *mut u32,
) -> Qnn_ErrorHandle_t {
    let answer = NEXT_SYSTEM.get();
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        list.write(answer.list);
        count.write(answer.count);
    }
    answer.handle
}

#[cfg(test)]
mod tests {
    use super::*;
    /// Words of a table: an entry that is absent is zero.
    #[cfg(not(feature = "sdk-headers"))]
    fn words<T: Copy, const N: usize>(table: T) -> [usize; N] {
        assert_eq!(std::mem::size_of::<T>(), N * std::mem::size_of::<usize>());
        // SAFETY: the sizes are equal, and a table is N optional function pointers: numbers without padding.
        unsafe { std::mem::transmute_copy(&table) }
    }

    #[cfg(not(feature = "sdk-headers"))]
    #[test]
    fn every_entry_is_filled() {
        assert!(words::<_, 71>(table()).iter().all(|w| *w != 0));
        assert!(words::<_, 16>(system_table()).iter().all(|w| *w != 0));
    }

    #[test]
    fn entries_answer_the_code() {
        let table = table();
        set_answer(6004);
        // SAFETY: a fake entry reads none of its arguments.
        let answers = unsafe {
            [table.backendFree.expect("filled")(null_mut()), table.contextFree.expect("filled")(null_mut(), null_mut())]
        };
        assert_eq!(answers, [6004, 6004]);
    }
}
