import java.net.URI
import java.net.http.HttpClient
import java.net.http.HttpRequest
import java.net.http.HttpRequest.BodyPublishers
import java.net.http.HttpResponse.BodyHandlers
import java.nio.file.Files
import java.nio.file.Path
import java.util.concurrent.TimeUnit.SECONDS
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonObject

/** A double in a process of its own: `latchkey serve`, on a store that [close] removes. */
class Double : AutoCloseable {
    private val dir: Path = Files.createTempDirectory("latchkey-kotlin-")
    private val log: Path = dir.resolve("log")
    private val command = System.getenv("LATCHKEY") ?: build()
    private lateinit var process: Process

    lateinit var url: String
        private set

    init {
        run(command, "init", "--store", "$dir/keys.db")
        start("127.0.0.1:0")
    }

    /** The users and server keys that the double has from the start. */
    val seeded: JsonObject = Json.parseToJsonElement(Files.readString(dir.resolve("tokens.json"))).jsonObject

    fun restart() {
        stop()
        start(URI(url).authority)
    }

    override fun close() {
        stop()
        dir.toFile().deleteRecursively()
    }

    /** Moves the double's clock. */
    fun advance(time: String) = control("clock", """{"advance":"$time"}""")

    /** Makes the double fail requests. */
    fun fault(fault: String) = control("faults", fault)

    private fun control(what: String, body: String) {
        val request = HttpRequest.newBuilder(URI("$url/.latchkey/control/$what")).POST(BodyPublishers.ofString(body))
        val reply = HttpClient.newHttpClient().send(request.build(), BodyHandlers.ofString())
        check(reply.statusCode() < 300) { reply.body() }
    }

    private fun start(address: String) {
        val flags = listOf("--addr", address, "--app-id", "clients-abcde", "--control", "--store", "$dir/keys.db")
        val seed = listOf("--seed", "../seed.yaml", "--tokens", "$dir/tokens.json")
        process = ProcessBuilder(listOf(command, "serve") + flags + seed)
            .redirectError(ProcessBuilder.Redirect.appendTo(log.toFile()))
            .start()
        url = checkNotNull(process.inputReader().readLine()) { "latchkey serve ended:\n${Files.readString(log)}" }
    }

    private fun stop() {
        process.destroy()
        check(process.waitFor(30, SECONDS) && process.exitValue() == 0) { "latchkey serve:\n${Files.readString(log)}" }
    }

    private fun build() = "$dir/latchkey".also { run("go", "build", "-C", "../../cmd/latchkey", "-o", it, ".") }

    private fun run(vararg command: String) {
        val process = ProcessBuilder(*command).redirectErrorStream(true).start()
        val said = process.inputReader().readText()
        check(process.waitFor() == 0) { "${command.joinToString(" ")}:\n$said" }
    }
}
