//! Makes a user and a key, logs in, revokes the key, and is refused: main FILE.

use std::os::raw::{c_char, c_void};
use std::{env, fmt, ptr, slice};

/// The part of latchkey.h that this program needs. A struct that the library returns may be declared up
/// to the last field that is used.
mod ffi {
    use super::*;

    pub const ABI_VERSION: u32 = 1;
    pub const OK: i32 = 0;

    #[repr(C)]
    #[derive(Clone, Copy)]
    pub struct Text {
        pub data: *const c_char,
        pub length: usize,
    }

    impl Text {
        pub const NONE: Text = Text { data: ptr::null(), length: 0 };

        /// Returns a text that points to the bytes of s, which must outlive it.
        pub fn of(s: &str) -> Text {
            Text { data: s.as_ptr().cast(), length: s.len() }
        }

        /// # Safety
        /// The text must be of a result that has not been released.
        pub unsafe fn bytes<'a>(self) -> &'a [u8] {
            slice::from_raw_parts(self.data.cast(), self.length)
        }

        /// # Safety
        /// As for bytes.
        pub unsafe fn string(self) -> String {
            String::from_utf8_lossy(self.bytes()).into_owned()
        }
    }

    #[repr(C)]
    #[derive(Clone, Copy)]
    pub struct Id {
        pub bytes: [u8; 16],
    }

    #[repr(C)]
    pub struct Error {
        pub size: usize,
        pub message: Text,
        pub code: i32,
    }

    #[repr(C)]
    pub struct UserSpec {
        pub size: usize,
        pub provider: Text,
        pub subject: Text,
        pub group: Text,
        pub metadata: *const c_void,
        pub metadata_count: usize,
    }

    #[repr(C)]
    pub struct KeySpec {
        pub size: usize,
        pub name: Text,
        pub expires: i64,
        pub scopes: *const Text,
        pub scope_count: usize,
        pub networks: *const Text,
        pub network_count: usize,
        pub metadata: *const c_void,
        pub metadata_count: usize,
        pub group: Text,
    }

    #[repr(C)]
    pub struct User {
        pub size: usize,
        pub id: Id,
    }

    #[repr(C)]
    pub struct Key {
        pub size: usize,
        pub id: Id,
    }

    #[repr(C)]
    pub struct Token {
        pub size: usize,
        pub text: Text,
    }

    #[repr(C)]
    pub struct Principal {
        pub size: usize,
        pub key_id: Id,
        pub owner: Id,
        pub user_id: Id,
        pub expires: i64,
        pub key_name: Text,
        pub provider: Text,
        pub subject: Text,
    }

    #[link(name = "latchkey")]
    extern "C" {
        pub fn lk_open(abi: u32, path: *const c_char, length: usize, options: *const c_void, store: *mut u64, error: *mut *mut Error) -> i32;
        pub fn lk_close(store: u64, error: *mut *mut Error) -> i32;
        pub fn lk_create_user(store: u64, spec: *const UserSpec, user: *mut *mut User, error: *mut *mut Error) -> i32;
        pub fn lk_create_key(store: u64, user: *const Id, spec: *const KeySpec, key: *mut *mut Key, token: *mut *mut Token, error: *mut *mut Error) -> i32;
        pub fn lk_login(store: u64, token: *const c_char, length: usize, principal: *mut *mut Principal, error: *mut *mut Error) -> i32;
        pub fn lk_disable_key(store: u64, owner: *const Id, id: *const Id, error: *mut *mut Error) -> i32;
        pub fn lk_code_text(code: i32, text: *mut Text);
        pub fn lk_error_free(error: *mut Error);
        pub fn lk_user_free(user: *mut User);
        pub fn lk_key_free(key: *mut Key);
        pub fn lk_token_free(token: *mut Token);
        pub fn lk_principal_free(principal: *mut Principal);
    }
}

#[derive(Debug)]
struct Error {
    code: i32,
    message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Makes a call, and returns its error.
fn call(f: impl FnOnce(*mut *mut ffi::Error) -> i32) -> Result<(), Error> {
    let mut error = ptr::null_mut();
    match f(&mut error) {
        ffi::OK => Ok(()),
        code => unsafe {
            let message = error.as_ref().map(|e| e.message.string()).unwrap_or_default();
            ffi::lk_error_free(error);
            Err(Error { code, message })
        },
    }
}

/// The token of a key. It is overwritten when it is dropped.
struct Token(*mut ffi::Token);

impl Token {
    fn bytes(&self) -> &[u8] {
        unsafe { (*self.0).text.bytes() }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        unsafe { ffi::lk_token_free(self.0) }
    }
}

/// An open store.
struct Store(u64);

impl Store {
    fn open(path: &str) -> Result<Store, Error> {
        let mut store = 0;
        call(|error| unsafe { ffi::lk_open(ffi::ABI_VERSION, path.as_ptr().cast(), path.len(), ptr::null(), &mut store, error) })?;
        Ok(Store(store))
    }

    fn create_user(&self, provider: &str, subject: &str) -> Result<ffi::Id, Error> {
        let spec = ffi::UserSpec {
            size: size_of::<ffi::UserSpec>(),
            provider: ffi::Text::of(provider),
            subject: ffi::Text::of(subject),
            group: ffi::Text::NONE,
            metadata: ptr::null(),
            metadata_count: 0,
        };
        let mut user = ptr::null_mut();
        call(|error| unsafe { ffi::lk_create_user(self.0, &spec, &mut user, error) })?;
        unsafe {
            let id = (*user).id;
            ffi::lk_user_free(user);
            Ok(id)
        }
    }

    fn create_key(&self, user: &ffi::Id, name: &str) -> Result<(ffi::Id, Token), Error> {
        let spec = ffi::KeySpec {
            size: size_of::<ffi::KeySpec>(),
            name: ffi::Text::of(name),
            expires: 0,
            scopes: ptr::null(),
            scope_count: 0,
            networks: ptr::null(),
            network_count: 0,
            metadata: ptr::null(),
            metadata_count: 0,
            group: ffi::Text::NONE,
        };
        let (mut key, mut token) = (ptr::null_mut(), ptr::null_mut());
        call(|error| unsafe { ffi::lk_create_key(self.0, user, &spec, &mut key, &mut token, error) })?;
        unsafe {
            let id = (*key).id;
            ffi::lk_key_free(key);
            Ok((id, Token(token)))
        }
    }

    /// Returns the subject of the user that a token belongs to.
    fn login(&self, token: &[u8]) -> Result<String, Error> {
        let mut who = ptr::null_mut();
        call(|error| unsafe { ffi::lk_login(self.0, token.as_ptr().cast(), token.len(), &mut who, error) })?;
        unsafe {
            let subject = (*who).subject.string();
            ffi::lk_principal_free(who);
            Ok(subject)
        }
    }

    fn disable_key(&self, owner: &ffi::Id, id: &ffi::Id) -> Result<(), Error> {
        call(|error| unsafe { ffi::lk_disable_key(self.0, owner, id, error) })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        unsafe { ffi::lk_close(self.0, ptr::null_mut()) };
    }
}

/// Returns a text for a code.
fn code_text(code: i32) -> String {
    let mut text = ffi::Text::NONE;
    unsafe {
        ffi::lk_code_text(code, &mut text);
        text.string()
    }
}

fn main() -> Result<(), Error> {
    let store = Store::open(&env::args().nth(1).unwrap_or("keys.db".into()))?;
    let ada = store.create_user("local-userpass", "ada@example.com")?;
    let (key, token) = store.create_key(&ada, "laptop")?;
    println!("{} logged in", store.login(token.bytes())?);
    store.disable_key(&ada, &key)?;
    if let Err(error) = store.login(token.bytes()) {
        println!("refused: {}", code_text(error.code));
    }
    Ok(())
}
