import io.realm.kotlin.internal.interop.ErrorCode.*
import io.realm.kotlin.internal.interop.RealmCredentialsPointer
import io.realm.kotlin.internal.interop.RealmInterop
import io.realm.kotlin.internal.interop.sync.AuthProvider.*
import java.nio.file.Path
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.junit.jupiter.api.AfterAll
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertFalse
import org.junit.jupiter.api.Assertions.assertNotEquals
import org.junit.jupiter.api.Assertions.assertNull
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.BeforeEach
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.TestInfo
import org.junit.jupiter.api.TestInstance
import org.junit.jupiter.api.TestInstance.Lifecycle.PER_CLASS
import org.junit.jupiter.api.io.TempDir
import org.mongodb.kbson.BsonObjectId

private const val PASSWORD = "correct horse battery"
private val HEX = Regex("[0-9a-f]{24}")
private val NO_KEY = BsonObjectId("65a1b2c3d4e5f60718293a4f")

// The core's errors for the double's refusals, each under the exception that the Kotlin SDK throws for it.

// InvalidCredentialsException
private val badPassword = Refusal(RLM_ERR_INVALID_PASSWORD, 401, "unauthorized")

// AuthException
private val badKey = Refusal(RLM_ERR_AUTH_ERROR, 401, "unauthorized")
private val userDisabled = Refusal(RLM_ERR_USER_DISABLED, 401, "unauthorized")

// UserAlreadyExistsException, UserNotFoundException, UserAlreadyConfirmedException
private val emailTaken = Refusal(RLM_ERR_ACCOUNT_NAME_IN_USE, 409, "name already in use")
private val noUser = Refusal(RLM_ERR_USER_NOT_FOUND, 404, "user not found")
private val confirmed = Refusal(RLM_ERR_USER_ALREADY_CONFIRMED, 400, "already confirmed")

// BadRequestException
private val badLength = Refusal(RLM_ERR_BAD_REQUEST, 400, "password must be between 6 and 128 characters")
private val badMail = Refusal(RLM_ERR_BAD_REQUEST, 400, "invalid token data")
private val tooMany = Refusal(RLM_ERR_BAD_REQUEST, 400, "user has reached the limit of 20 API keys")

// IllegalArgumentException. For noSuchKey, only enable and disable throw it: fetch returns null, and delete succeeds
private val noSuchKey = Refusal(RLM_ERR_API_KEY_NOT_FOUND, 404, "API key not found")
private val nameNeeded = Refusal(RLM_ERR_APP_UNKNOWN, 400, "'name' is a required string")
private val badName =
    Refusal(RLM_ERR_INVALID_PARAMETER, 400, "can only contain ASCII letters, numbers, underscores, and hyphens")

// FunctionExecutionException
private val noFunction = Refusal(RLM_ERR_FUNCTION_NOT_FOUND, 404, "function not found: 'sum'")

// ServiceException
private val badToken = Refusal(RLM_ERR_INVALID_SESSION, 401, "unauthorized")
private val accessExpired = Refusal(RLM_ERR_INVALID_SESSION, 401, "invalid session: access token expired")
private val sessionEnded = Refusal(RLM_ERR_INVALID_SESSION, 401, "invalid session: failed to find refresh token")
private val noBearer = Refusal(RLM_ERR_APP_UNKNOWN, 401, "expected Authorization header with JWT (Bearer schema)")
private val forbidden = Refusal(RLM_ERR_HTTP_ERROR, 403, "http error code considered fatal. Client Error: 403")
private val nameTaken = Refusal(RLM_ERR_API_KEY_ALREADY_EXISTS, 409, "API key with name already exists")
private val foreignKey = Refusal(RLM_ERR_INVALID_PARAMETER, 400, "invalid user link request")
private val secondEmail = Refusal(RLM_ERR_INTERNAL_SERVER_ERROR, 500, "unauthorized")
private val noMail = Refusal(RLM_ERR_USERPASS_TOKEN_INVALID, 400, "userpass token is expired or invalid")
private val noApp = Refusal(RLM_ERR_APP_UNKNOWN, 404, "cannot find app using Client App ID 'nosuch-abcde'")

/** Tests the C++ core of the SDKs against the double. */
@TestInstance(PER_CLASS)
class CoreTest {
    private val double = Double()

    @TempDir
    lateinit var directories: Path
    private lateinit var domain: String
    private var programs = 0

    @BeforeEach
    fun newDomain(test: TestInfo) {
        domain = test.testMethod.get().name.replace(Regex("[^a-z]+"), "-").take(40) + ".example.com"
    }

    @AfterAll
    fun stop() = double.close()

    @Test
    fun `a user registers with an email that nobody has, and a password of 6 to 128 characters`() {
        val program = program()
        for (password in listOf("", "12345", "x".repeat(129))) {
            refused(badLength) { program.register(email("ada"), password) }
        }
        program.register(email("ada"), PASSWORD)
        refused(emailTaken) { program.register(email("ada"), PASSWORD) }
    }

    @Test
    fun `a user logs in, and is told who they are`() {
        val program = program()
        program.register(email("ada"), PASSWORD)
        refused(badPassword) { program.logIn(credentials("ada", "wrong password")) }
        refused(badPassword) { program.logIn(credentials("nobody")) }
        assertNull(program.currentUser)

        val user = program.logIn(credentials("ada"))
        assertTrue(HEX.matches(user.id), user.id)
        assertTrue(HEX.matches(user.deviceId) && user.deviceId != "0".repeat(24), user.deviceId)
        assertTrue(user.isLoggedIn)
        assertEquals("""{"email":"${email("ada")}"}""", user.profile)
        assertNull(user.customData)
        assertEquals(listOf(RLM_AUTH_PROVIDER_EMAIL_PASSWORD), user.identities.map { it.provider })
        assertTrue(HEX.matches(user.identities[0].id))
        assertEquals(user.id, program.currentUser?.id)
        assertEquals(user.id, program.logIn(credentials("ada")).id)
    }

    @Test
    fun `a key is created, listed, fetched, disabled, refused, enabled, used and deleted`() {
        val program = program()
        val user = program.newUser("ada")
        assertEquals(emptyList<ApiKey>(), user.fetchKeys())

        val created = user.createKey("laptop")
        val token = created.value!!
        val laptop = created.copy(value = null)
        assertEquals("laptop" to false, laptop.name to laptop.disabled)
        val phone = user.createKey("phone").copy(value = null)
        assertEquals(listOf(laptop, phone), user.fetchKeys())
        assertEquals(laptop, user.fetchKey(laptop.id))

        repeat(2) { user.disableKey(laptop.id) }
        assertEquals(laptop.copy(disabled = true), user.fetchKey(laptop.id))
        refused(badKey) { program.logIn(key(token)) }
        repeat(2) { user.enableKey(laptop.id) }
        assertEquals(laptop, user.fetchKey(laptop.id))

        assertEquals(user.id, program().logIn(key(token)).id)
        val byKey = program.logIn(key(token))
        assertEquals(user.id, byKey.id)
        assertEquals(
            listOf(RLM_AUTH_PROVIDER_EMAIL_PASSWORD, RLM_AUTH_PROVIDER_API_KEY),
            byKey.identities.map { it.provider },
        )

        program.logIn(credentials("ada"))
        user.deleteKey(laptop.id)
        refused(noSuchKey) { user.fetchKey(laptop.id) }
        refused(noSuchKey) { user.deleteKey(laptop.id) }
        refused(noSuchKey) { user.enableKey(laptop.id) }
        refused(noSuchKey) { user.disableKey(laptop.id) }
        assertEquals(listOf(phone), user.fetchKeys())
        refused(badKey) { program.logIn(key(token)) }
        assertTrue(user.isLoggedIn)
    }

    @Test
    fun `a session that was opened with a key manages no keys`() {
        val program = program()
        val laptop = program.newUser("ada").createKey("laptop")
        val byKey = program.logIn(key(laptop.value!!))
        refusesAllKeyCalls(forbidden, byKey, laptop.id)
        assertTrue(byKey.isLoggedIn)
        program.logIn(credentials("ada")).deleteKey(laptop.id)
    }

    @Test
    fun `a string that is no key does not log in`() {
        val program = program()
        val token = program.newUser("ada").createKey("laptop").value!!
        for (bad in listOf("foo", token.dropLast(1), token + "A", token.uppercase(), "A".repeat(64))) {
            refused(badKey) { program.logIn(key(bad)) }
        }
    }

    @Test
    fun `a key's name has ASCII letters, digits, underscores and hyphens, and is the only one of its user`() {
        val program = program()
        val user = program.newUser("ada")
        for (name in listOf("%s", "My very cool key", "$()!$", "schlüssel")) refused(badName) { user.createKey(name) }
        refused(nameNeeded) { user.createKey("") }
        for (name in listOf("my-key", "Name_of_the_API_Key", "7")) assertEquals(name, user.createKey(name).name)

        refused(nameTaken) { user.createKey("my-key") }
        program().newUser("grace").createKey("my-key")
        user.deleteKey(user.fetchKeys().first().id)
        user.createKey("my-key")
    }

    @Test
    fun `a user has at most twenty keys`() {
        val user = program().newUser("ada")
        val names = (0..<20).map { "key-$it" }
        names.forEach(user::createKey)
        refused(tooMany) { user.createKey("key-20") }
        val keys = user.fetchKeys()
        assertEquals(names, keys.map { it.name })
        user.deleteKey(keys[3].id)
        user.createKey("key-20")
        refused(tooMany) { user.createKey("key-21") }
    }

    @Test
    fun `another user's key is not found, and stays as it is`() {
        val ada = program().newUser("ada")
        val created = ada.createKey("laptop")
        val grace = program().newUser("grace")
        for (id in listOf(created.id, NO_KEY)) {
            refused(noSuchKey) { grace.fetchKey(id) }
            refused(noSuchKey) { grace.enableKey(id) }
            refused(noSuchKey) { grace.disableKey(id) }
            refused(noSuchKey) { grace.deleteKey(id) }
        }
        assertEquals(emptyList<ApiKey>(), grace.fetchKeys())
        assertEquals(listOf(created.copy(value = null)), ada.fetchKeys())
        assertEquals(ada.id, program().logIn(key(created.value!!)).id)
    }

    @Test
    fun `an anonymous user manages no keys until an email is linked`() {
        val program = program()
        val user = program.logIn(RealmInterop.realm_app_credentials_new_anonymous(true))
        val (id, refreshToken) = user.id to user.refreshToken
        assertEquals("{}", user.profile)
        assertEquals(49, user.identities.single().id.length)
        refusesAllKeyCalls(forbidden, user, NO_KEY)

        program.register(email("ada"), PASSWORD)
        val linked = user.link(credentials("ada"))
        assertEquals(id to refreshToken, linked.id to linked.refreshToken)
        assertEquals(
            listOf(RLM_AUTH_PROVIDER_ANONYMOUS, RLM_AUTH_PROVIDER_EMAIL_PASSWORD),
            linked.identities.map { it.provider },
        )
        linked.createKey("laptop")
        val byEmail = program().logIn(credentials("ada"))
        assertEquals(id, byEmail.id)
        assertEquals(listOf("laptop"), byEmail.fetchKeys().map { it.name })
    }

    @Test
    fun `every new anonymous login makes another user`() {
        val (reuse, anew) = listOf(true, false).map(RealmInterop::realm_app_credentials_new_anonymous)
        val program = program()
        val first = program.logIn(reuse)
        assertEquals(first.id, program.logIn(reuse).id)
        assertNotEquals(first.id, program.logIn(anew).id)
    }

    @Test
    fun `a link that the double refuses is asked for only once`() {
        val token = program().newUser("grace").createKey("laptop").value!!
        val program = program()
        val user = program.newUser("ada")
        program.register(email("second"), PASSWORD)
        val before = program.requests.size

        refused(badPassword) { user.link(credentials("nobody")) }
        refused(badKey) { user.link(key("foo")) }
        refused(badToken) { user.link(credentials("grace")) }
        refused(foreignKey) { user.link(key(token)) }
        refused(secondEmail) { user.link(credentials("second")) }
        assertEquals(5, program.requests.size - before)

        user.link(credentials("ada"))
        assertEquals(listOf(RLM_AUTH_PROVIDER_EMAIL_PASSWORD), user.identities.map { it.provider })
    }

    @Test
    fun `logging out ends that session, and no other`() {
        val program = program()
        val user = program.newUser("ada")
        val id = user.createKey("laptop").id
        val elsewhere = program().logIn(credentials("ada"))
        user.logOut()
        assertEquals("DELETE /auth/session 204", program.requests.last())
        assertFalse(user.isLoggedIn)
        refusesAllKeyCalls(noBearer, user, id)
        assertEquals(1, elsewhere.fetchKeys().size)
    }

    @Test
    fun `a deleted user is gone, with sessions and keys, and the email is free again`() {
        val program = program()
        val user = program.newUser("ada")
        val id = user.id
        val token = user.createKey("laptop").value!!
        val other = program()
        val elsewhere = other.logIn(credentials("ada"))

        user.delete()
        assertNull(program.currentUser)
        refused(badPassword) { program.logIn(credentials("ada")) }
        refused(badKey) { program.logIn(key(token)) }

        refused(sessionEnded) { elsewhere.fetchKeys() }
        assertFalse(elsewhere.isLoggedIn, "the core logs out a user whose session has ended")

        val again = program.newUser("ada")
        assertNotEquals(id, again.id)
        assertEquals(emptyList<ApiKey>(), again.fetchKeys())
    }

    @Test
    fun `an access token that has expired is replaced, and the call goes through`() {
        val program = program()
        val user = program.newUser("ada")
        later("31m") {
            program.requests.clear()
            refused(noFunction) { user.call("sum") }
            val call = "POST /app/clients-abcde/functions/call"
            assertEquals(listOf("$call 401", "POST /auth/session 201", "$call 404"), program.requests.toList())
            assertEquals(emptyList<ApiKey>(), user.fetchKeys())
        }
    }

    @Test
    fun `a link with an access token that has expired goes through only after a refresh`() {
        val program = program()
        val user = program.logIn(RealmInterop.realm_app_credentials_new_anonymous(true))
        program.register(email("ada"), PASSWORD)
        later("31m") {
            refused(accessExpired) { user.link(credentials("ada")) }
            user.refreshCustomData()
            assertEquals(user.id, user.link(credentials("ada")).id)
        }
    }

    @Test
    fun `only calls for keys log out a user whose session has ended`() {
        val user = program().newUser("ada")
        later("1441h") {
            refused(sessionEnded) { user.refreshCustomData() }
            refused(accessExpired) { user.call("sum") }
            assertTrue(user.isLoggedIn)
            refused(sessionEnded) { user.fetchKeys() }
            assertFalse(user.isLoggedIn)
        }
    }

    @Test
    fun `a session that was opened with a key links no identity`() {
        val program = program()
        val laptop = program.newUser("ada").createKey("laptop")
        program.register(email("thief"), PASSWORD)
        refused(forbidden) { program.logIn(key(laptop.value!!)).link(credentials("thief")) }
    }

    @Test
    fun `a profile that is refused at login is asked for again with a new access token`() {
        val program = program()
        program.register(email("ada"), PASSWORD)
        double.fault("""{"path":"/auth/profile","status":401,"error_code":"InvalidSession","error":"expired","to":1}""")
        program.requests.clear()
        program.logIn(credentials("ada"))
        assertEquals(
            listOf(
                "POST /app/clients-abcde/auth/providers/local-userpass/login 200",
                "GET /auth/profile 401",
                "POST /auth/session 201",
                "GET /auth/profile 200",
            ),
            program.requests.toList(),
        )
    }

    @Test
    fun `a session ends after sixty days, and an anonymous user's does not`() {
        val user = program().newUser("ada")
        val anonymous = program().logIn(RealmInterop.realm_app_credentials_new_anonymous(true))
        later("1441h") {
            refused(sessionEnded) { user.fetchKeys() }
            assertFalse(user.isLoggedIn, "the core logs out a user whose session has ended")
            anonymous.refreshCustomData()
            assertTrue(anonymous.isLoggedIn)
        }
    }

    @Test
    fun `a disabled user cannot log in at all`() {
        val user = double.seeded["users"]!!.jsonArray[0].jsonObject
        val email = RealmInterop.realm_app_credentials_new_email_password(user["email"].text, PASSWORD)
        refused(userDisabled) { program().logIn(email) }
        refused(userDisabled) { program().logIn(key(user["keys"]!!.jsonArray[0].jsonObject["token"].text)) }
    }

    @Test
    fun `a server key logs in a user of its own, who manages no keys`() {
        val (backup, retired) = double.seeded["server_keys"]!!.jsonArray.map { it.jsonObject }
        val server = program().logIn(key(backup["token"].text))
        assertEquals("""{"name":"backup-job"}""", server.profile)
        assertEquals(backup["id"].text, server.identities.single().id)
        assertEquals(RLM_AUTH_PROVIDER_API_KEY, server.identities.single().provider)
        refusesAllKeyCalls(forbidden, server, NO_KEY)
        assertEquals(server.id, program().logIn(key(backup["token"].text)).id)
        refused(badKey) { program().logIn(key(retired["token"].text)) }
    }

    @Test
    fun `a session, its user and its keys outlive a restart of the double, and of the program`() {
        val program = program()
        val user = program.newUser("ada")
        val created = user.createKey("laptop")
        val off = user.createKey("off")
        user.disableKey(off.id)

        double.restart()
        val keys = listOf(created.copy(value = null), off.copy(value = null, disabled = true))
        assertEquals(keys, user.fetchKeys())
        user.refreshCustomData()
        assertEquals(user.id, program().logIn(key(created.value!!)).id)
        refused(badKey) { program().logIn(key(off.value!!)) }
        assertEquals(user.id, program().logIn(credentials("ada")).id)

        val restarted = Program(double.url, program.directory)
        val kept = restarted.currentUser!!
        assertEquals(user.id to user.refreshToken, kept.id to kept.refreshToken)
        assertEquals(keys, kept.fetchKeys())
    }

    @Test
    fun `mails that confirm or reset are sent only to users that exist`() {
        val program = program()
        program.register(email("ada"), PASSWORD)
        program.sendReset(email("ada"))
        refused(noUser) { program.sendReset(email("nobody")) }
        refused(noUser) { program.resendConfirmation(email("nobody")) }
        refused(confirmed) { program.resendConfirmation(email("ada")) }
        refused(noMail) { program.confirm("ab".repeat(64), NO_KEY.toHexString()) }
        refused(badMail) { program.confirm("x", "y") }
    }

    @Test
    fun `credentials that nobody vouches for are refused`() {
        for (credentials in listOf(
            RealmInterop.realm_app_credentials_new_jwt("a.b.c"),
            RealmInterop.realm_app_credentials_new_google_id_token("x"),
            RealmInterop.realm_app_credentials_new_google_auth_code("x"),
            RealmInterop.realm_app_credentials_new_facebook("x"),
            RealmInterop.realm_app_credentials_new_apple("x"),
        )) {
            refused(badToken) { program().logIn(credentials) }
        }
    }

    @Test
    fun `an app that the double does not know is not found`() {
        val program = Program(double.url, directories.resolve("unknown"), "nosuch-abcde")
        refused(noApp) { program.register(email("ada"), PASSWORD) }
    }

    /** Makes a program that has never run before. */
    private fun program() = Program(double.url, directories.resolve("${programs++}"))

    /** Moves the double's clock forward, runs [then], and moves the clock back. */
    private fun later(time: String, then: () -> Unit) {
        double.advance(time)
        try {
            then()
        } finally {
            double.advance("-$time")
        }
    }

    private fun email(name: String) = "$name@$domain"

    private fun credentials(name: String, password: String = PASSWORD): RealmCredentialsPointer =
        RealmInterop.realm_app_credentials_new_email_password(email(name), password)

    private fun key(token: String) = RealmInterop.realm_app_credentials_new_api_key(token)

    private fun Program.newUser(name: String): Program.User {
        register(email(name), PASSWORD)
        return logIn(credentials(name))
    }

    private val JsonElement?.text get() = this!!.jsonPrimitive.content

    private fun refused(want: Refusal, call: () -> Unit) = refused(double.url, want, call)

    private fun refusesAllKeyCalls(want: Refusal, user: Program.User, id: BsonObjectId) {
        refused(want) { user.createKey("name") }
        refused(want) { user.fetchKeys() }
        refused(want) { user.fetchKey(id) }
        refused(want) { user.enableKey(id) }
        refused(want) { user.disableKey(id) }
        refused(want) { user.deleteKey(id) }
    }
}
