// Makes a user and a key, logs in, revokes the key, and is refused: node main.js LIBRARY FILE.
'use strict'

const koffi = require('koffi')

const [, , path = 'liblatchkey.so', file = 'keys.db'] = process.argv
const library = koffi.load(path)

// The part of latchkey.h that this program needs. A struct that the library returns may be declared up
// to the last field that is used.
const ABI = 1
koffi.struct('lk_string', { data: 'void *', length: 'size_t' })
koffi.struct('lk_id', { bytes: koffi.array('uint8_t', 16) })
koffi.struct('lk_identity', { provider: 'lk_string', subject: 'lk_string' })
const UserSpec = koffi.struct('lk_user_spec', {
  size: 'size_t',
  identity: 'lk_identity',
  group: 'lk_string',
  metadata: 'void *',
  metadata_count: 'size_t',
})
const KeySpec = koffi.struct('lk_key_spec', {
  size: 'size_t',
  name: 'lk_string',
  expires: 'int64_t',
  scopes: 'void *',
  scope_count: 'size_t',
  networks: 'void *',
  network_count: 'size_t',
  metadata: 'void *',
  metadata_count: 'size_t',
  group: 'lk_string',
})
koffi.struct('lk_error', { size: 'size_t', message: 'lk_string', code: 'int32_t' })
koffi.struct('lk_user', { size: 'size_t', id: 'lk_id' })
koffi.struct('lk_key', { size: 'size_t', id: 'lk_id', owner: 'lk_id', name: 'lk_string' })
koffi.struct('lk_token', { size: 'size_t', text: 'lk_string' })
koffi.struct('lk_principal', {
  size: 'size_t',
  key_id: 'lk_id',
  owner: 'lk_id',
  user_id: 'lk_id',
  expires: 'int64_t',
  key_name: 'lk_string',
  provider: 'lk_string',
  subject: 'lk_string',
})

const open = library.func('int32_t lk_open(uint32_t abi, const uint8_t *path, size_t length, const void *options, _Out_ uint64_t *store, _Out_ void **error)')
const close = library.func('int32_t lk_close(uint64_t store, _Out_ void **error)')
const createUser = library.func('int32_t lk_create_user(uint64_t store, const lk_user_spec *spec, _Out_ void **user, _Out_ void **error)')
const createKey = library.func('int32_t lk_create_key(uint64_t store, const lk_id *user, const lk_key_spec *spec, _Out_ void **key, _Out_ void **token, _Out_ void **error)')
const login = library.func('int32_t lk_login(uint64_t store, const uint8_t *token, size_t length, _Out_ void **principal, _Out_ void **error)')
const disableKey = library.func('int32_t lk_disable_key(uint64_t store, const lk_id *owner, const lk_id *id, _Out_ void **error)')
const codeText = library.func('void lk_code_text(int32_t code, _Out_ lk_string *text)')
const free = {}
for (const kind of ['error', 'user', 'key', 'token', 'principal']) {
  free[kind] = library.func(`void lk_${kind}_free(void *result)`)
}

class LatchkeyError extends Error {
  constructor(code, message) {
    super(message)
    this.code = code
  }
}

const toText = (s) => Buffer.from(koffi.decode(s.data, koffi.array('uint8_t', Number(s.length)))).toString()

// call calls a function, and throws its error.
function call(fn, ...args) {
  const error = [null]
  const code = fn(...args, error)
  if (code === 0) return
  const message = toText(koffi.decode(error[0], 'lk_error').message)
  free.error(error[0])
  throw new LatchkeyError(code, message)
}

// take reads a result of the library, and releases it.
function take(kind, pointer, read) {
  try {
    return read(koffi.decode(pointer, `lk_${kind}`))
  } finally {
    free[kind](pointer)
  }
}

// A text in a struct points to a Buffer, which must live until the call has returned.
const text = (buffer) => ({ data: buffer, length: buffer.length })
const noText = { data: null, length: 0 }

const store = [0]
const name = Buffer.from(file)
call(open, ABI, name, name.length, null, store)

const provider = Buffer.from('local-userpass')
const subject = Buffer.from('ada@example.com')
const user = [null]
call(createUser, store[0], {
  size: koffi.sizeof(UserSpec),
  identity: { provider: text(provider), subject: text(subject) },
  group: noText,
  metadata: null,
  metadata_count: 0,
}, user)
const ada = take('user', user[0], (u) => u.id)

const laptop = Buffer.from('laptop')
const key = [null]
const made = [null]
call(createKey, store[0], ada, {
  size: koffi.sizeof(KeySpec),
  name: text(laptop),
  expires: 0,
  scopes: null,
  scope_count: 0,
  networks: null,
  network_count: 0,
  metadata: null,
  metadata_count: 0,
  group: noText,
}, key, made)
const keyID = take('key', key[0], (k) => k.id)
const token = take('token', made[0], (t) => Buffer.from(toText(t.text)))

const who = [null]
call(login, store[0], token, token.length, who)
console.log(`${take('principal', who[0], (p) => toText(p.subject))} logged in`)

call(disableKey, store[0], ada, keyID)
try {
  call(login, store[0], token, token.length, [null])
} catch (error) {
  const why = {}
  codeText(error.code, why)
  console.log(`refused: ${toText(why)}`)
}
call(close, store[0])
