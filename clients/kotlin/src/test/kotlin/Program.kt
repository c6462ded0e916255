import io.realm.kotlin.internal.interop.AppCallback
import io.realm.kotlin.internal.interop.CoreLogLevel
import io.realm.kotlin.internal.interop.ErrorCategory
import io.realm.kotlin.internal.interop.ErrorCode
import io.realm.kotlin.internal.interop.RealmAppPointer
import io.realm.kotlin.internal.interop.RealmCredentialsPointer
import io.realm.kotlin.internal.interop.RealmInterop
import io.realm.kotlin.internal.interop.RealmUserPointer
import io.realm.kotlin.internal.interop.SyncConnectionParams
import io.realm.kotlin.internal.interop.sync.ApiKeyWrapper
import io.realm.kotlin.internal.interop.sync.AppError
import io.realm.kotlin.internal.interop.sync.MetadataMode
import io.realm.kotlin.internal.interop.sync.NetworkTransport
import io.realm.kotlin.internal.interop.sync.Response
import io.realm.kotlin.internal.interop.sync.ResponseCallback
import java.net.URI
import java.net.http.HttpClient
import java.net.http.HttpRequest
import java.net.http.HttpRequest.BodyPublishers
import java.net.http.HttpResponse.BodyHandlers
import java.nio.file.Files
import java.nio.file.Path
import java.util.concurrent.CompletableFuture
import java.util.concurrent.ConcurrentLinkedQueue
import java.util.concurrent.TimeUnit.SECONDS
import org.mongodb.kbson.BsonObjectId

/** An app that uses the SDK: an `App` of the C++ core, which keeps its users and their tokens under a directory. */
class Program(url: String, val directory: Path, appId: String = "clients-abcde") {
    private val transport = Transport()
    private val app: RealmAppPointer

    init {
        RealmInterop.realm_set_log_level(CoreLogLevel.RLM_LOG_LEVEL_OFF)
        Files.createDirectories(directory)
        val config = RealmInterop.realm_app_config_new(
            appId = appId,
            networkTransport = RealmInterop.realm_network_transport_new(transport),
            baseUrl = url,
            connectionParams = SyncConnectionParams(
                sdkVersion = "2.3.0",
                bundleId = "clients",
                platformVersion = System.getProperty("os.version"),
                device = "",
                deviceVersion = "",
                framework = SyncConnectionParams.Runtime.JVM,
                frameworkVersion = System.getProperty("java.version"),
            ),
        )
        RealmInterop.realm_app_config_set_base_file_path(config, "$directory")
        RealmInterop.realm_app_config_set_metadata_mode(config, MetadataMode.RLM_SYNC_CLIENT_METADATA_MODE_PLAINTEXT)
        app = RealmInterop.realm_app_get(config, "$directory")
    }

    /** The requests so far, as "METHOD /path status", without the common beginning of all paths. */
    val requests get() = transport.requests

    val currentUser get() = RealmInterop.realm_app_get_current_user(app)?.let { User(it) }

    fun register(email: String, password: String) =
        await { RealmInterop.realm_app_email_password_provider_client_register_email(app, email, password, it) }

    fun confirm(token: String, tokenId: String) =
        await { RealmInterop.realm_app_email_password_provider_client_confirm_user(app, token, tokenId, it) }

    fun resendConfirmation(email: String) =
        await { RealmInterop.realm_app_email_password_provider_client_resend_confirmation_email(app, email, it) }

    fun sendReset(email: String) =
        await { RealmInterop.realm_app_email_password_provider_client_send_reset_password_email(app, email, it) }

    fun logIn(credentials: RealmCredentialsPointer): User =
        User(await { RealmInterop.realm_app_log_in_with_credentials(app, credentials, it) })

    /** A user of this program, with the calls that the SDK has on `User` and `ApiKeyAuth`. */
    inner class User(private val user: RealmUserPointer) {
        val id get() = RealmInterop.realm_user_get_identity(user)
        val deviceId get() = RealmInterop.realm_user_get_device_id(user)
        val isLoggedIn get() = RealmInterop.realm_user_is_logged_in(user)
        val profile get() = RealmInterop.realm_user_get_profile(user)
        val customData get() = RealmInterop.realm_user_get_custom_data(user)
        val identities get() = RealmInterop.realm_user_get_all_identities(user)
        val accessToken get() = RealmInterop.realm_user_get_access_token(user)
        val refreshToken get() = RealmInterop.realm_user_get_refresh_token(user)

        fun refreshCustomData() = await { RealmInterop.realm_user_refresh_custom_data(app, user, it) }

        fun link(credentials: RealmCredentialsPointer) =
            User(await { RealmInterop.realm_app_link_credentials(app, user, credentials, it) })

        fun call(function: String) = await {
            RealmInterop.realm_app_call_function(app, user, function, serializedEjsonArgs = "[]", callback = it)
        }

        fun logOut() = await { RealmInterop.realm_app_log_out(app, user, it) }
        fun delete() = await { RealmInterop.realm_app_delete_user(app, user, it) }

        fun createKey(name: String) =
            ApiKey(await { RealmInterop.realm_app_user_apikey_provider_client_create_apikey(app, user, name, it) })

        fun fetchKeys() =
            await { RealmInterop.realm_app_user_apikey_provider_client_fetch_apikeys(app, user, it) }.map(::ApiKey)

        fun fetchKey(id: BsonObjectId) =
            ApiKey(await { RealmInterop.realm_app_user_apikey_provider_client_fetch_apikey(app, user, id, it) })

        fun enableKey(id: BsonObjectId) =
            await { RealmInterop.realm_app_user_apikey_provider_client_enable_apikey(app, user, id, it) }

        fun disableKey(id: BsonObjectId) =
            await { RealmInterop.realm_app_user_apikey_provider_client_disable_apikey(app, user, id, it) }

        fun deleteKey(id: BsonObjectId) =
            await { RealmInterop.realm_app_user_apikey_provider_client_delete_apikey(app, user, id, it) }
    }
}

/** A key in the core's form. */
data class ApiKey(val id: BsonObjectId, val name: String, val disabled: Boolean, val value: String?) {
    constructor(key: ApiKeyWrapper) : this(key.id, key.name, key.disabled, key.value)
}

/** A call that the core reported as failed. */
class Refused(val error: AppError) : Exception("$error")

/** Makes a call, and waits for the core to call back. */
private fun <T> await(call: (AppCallback<T>) -> Unit): T {
    val answer = CompletableFuture<Result<T>>()
    call(object : AppCallback<T> {
        override fun onSuccess(result: T) {
            answer.complete(Result.success(result))
        }

        override fun onError(error: AppError) {
            answer.complete(Result.failure(Refused(error)))
        }
    })
    return answer.get(60, SECONDS).getOrThrow()
}

/** HTTP for the core, which has none of its own. Each request is sent as the core makes it. */
private class Transport : NetworkTransport {
    private val client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build()
    val requests = ConcurrentLinkedQueue<String>()

    override val authorizationHeaderName = "Authorization"
    override val customHeaders = emptyMap<String, String>()

    override fun sendRequest(
        method: String,
        url: String,
        headers: Map<String, String>,
        body: String,
        callback: ResponseCallback,
    ) {
        val request = HttpRequest.newBuilder(URI(url)).method(method.uppercase(), BodyPublishers.ofString(body))
        headers.forEach(request::header)
        client.sendAsync(request.build(), BodyHandlers.ofString()).whenComplete { reply, failure ->
            if (failure != null) {
                callback.response(Response(0, 1000, emptyMap(), "$failure"))
                return@whenComplete
            }
            requests += "${method.uppercase()} ${URI(url).path.removePrefix("/api/client/v2.0")} ${reply.statusCode()}"
            val first = reply.headers().map().mapValues { (_, values) -> values.first() }
            callback.response(Response(reply.statusCode(), 0, first, reply.body()))
        }
    }

    override fun close() {}
}

/** A refusal as the core reports it: its code, the status, and the text. */
data class Refusal(val code: ErrorCode, val status: Int, val text: String) {
    constructor(error: AppError) : this(error.code as ErrorCode, error.httpStatusCode, error.message ?: "")
}

/** Makes a call that the service must refuse, with a link to a line of its log. */
fun refused(url: String, want: Refusal, call: () -> Unit) {
    val error = try {
        call()
        throw AssertionError("not refused, want $want")
    } catch (e: Refused) {
        e.error
    }
    check(Refusal(error) == want) { "got $error, want $want" }
    if (want.code == ErrorCode.RLM_ERR_HTTP_ERROR) {
        check(ErrorCategory.RLM_ERR_CAT_HTTP_ERROR in error) { "$error is no HTTP error" }
        return
    }
    check(ErrorCategory.RLM_ERR_CAT_SERVICE_ERROR in error) { "$error is no error of the service" }
    val link = Regex(Regex.escape(url) + "/groups/[0-9a-f]{24}/apps/[0-9a-f]{24}/logs\\?co_id=[0-9a-f]{24}")
    check(link.matches(error.linkToServerLog.orEmpty())) { "link: ${error.linkToServerLog}" }
}
