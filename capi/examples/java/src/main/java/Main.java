import com.sun.jna.Library;
import com.sun.jna.Memory;
import com.sun.jna.Native;
import com.sun.jna.Pointer;
import com.sun.jna.Structure;
import com.sun.jna.Structure.FieldOrder;
import com.sun.jna.ptr.LongByReference;
import com.sun.jna.ptr.PointerByReference;
import java.nio.charset.StandardCharsets;

/** Makes a user and a key, logs in, revokes the key, and is refused. Arguments: LIBRARY FILE. */
public final class Main {
  /** The part of latchkey.h that this program needs, for machines of 64 bits. */
  public interface Latchkey extends Library {
    int ABI = 1;

    int lk_open(int abi, byte[] path, long length, Pointer options, LongByReference store, PointerByReference error);

    int lk_close(long store, PointerByReference error);

    int lk_create_user(long store, UserSpec spec, PointerByReference user, PointerByReference error);

    int lk_create_key(
        long store, byte[] user, KeySpec spec, PointerByReference key, PointerByReference token, PointerByReference error);

    int lk_login(long store, byte[] token, long length, PointerByReference principal, PointerByReference error);

    int lk_disable_key(long store, byte[] owner, byte[] id, PointerByReference error);

    void lk_code_text(int code, Text text);

    void lk_error_free(Pointer error);

    void lk_user_free(Pointer user);

    void lk_key_free(Pointer key);

    void lk_token_free(Pointer token);

    void lk_principal_free(Pointer principal);
  }

  @FieldOrder({"data", "length"})
  public static class Text extends Structure {
    public Pointer data;
    public long length;

    /** Points to a copy of a string, which lives as long as this object. */
    void set(String s) {
      byte[] bytes = s.getBytes(StandardCharsets.UTF_8);
      Memory memory = new Memory(Math.max(bytes.length, 1));
      memory.write(0, bytes, 0, bytes.length);
      data = memory;
      length = bytes.length;
    }

    byte[] bytes() {
      return data.getByteArray(0, (int) length);
    }

    @Override
    public String toString() {
      return new String(bytes(), StandardCharsets.UTF_8);
    }
  }

  @FieldOrder({"size", "provider", "subject", "group", "metadata", "metadataCount"})
  public static class UserSpec extends Structure {
    public long size;
    public Text provider;
    public Text subject;
    public Text group;
    public Pointer metadata;
    public long metadataCount;
  }

  @FieldOrder({
    "size", "name", "expires", "scopes", "scopeCount", "networks", "networkCount", "metadata", "metadataCount", "group"
  })
  public static class KeySpec extends Structure {
    public long size;
    public Text name;
    public long expires;
    public Pointer scopes;
    public long scopeCount;
    public Pointer networks;
    public long networkCount;
    public Pointer metadata;
    public long metadataCount;
    public Text group;
  }

  /** A struct that the library returns, declared up to the last field that is used. */
  public abstract static class Result extends Structure {
    public long size;

    Result(Pointer p) {
      super(p);
    }
  }

  @FieldOrder({"size", "message", "code"})
  public static class Failure extends Result {
    public Text message;
    public int code;

    Failure(Pointer p) {
      super(p);
      read();
    }
  }

  @FieldOrder({"size", "id"})
  public static class Record extends Result { // a user or a key
    public byte[] id = new byte[16];

    Record(Pointer p) {
      super(p);
      read();
    }
  }

  @FieldOrder({"size", "text"})
  public static class Token extends Result {
    public Text text;

    Token(Pointer p) {
      super(p);
      read();
    }
  }

  @FieldOrder({"size", "keyId", "owner", "userId", "expires", "keyName", "provider", "subject"})
  public static class Principal extends Result {
    public byte[] keyId = new byte[16];
    public byte[] owner = new byte[16];
    public byte[] userId = new byte[16];
    public long expires;
    public Text keyName;
    public Text provider;
    public Text subject;

    Principal(Pointer p) {
      super(p);
      read();
    }
  }

  static final class LatchkeyException extends Exception {
    final int code;

    LatchkeyException(int code, String message) {
      super(message);
      this.code = code;
    }
  }

  private final Latchkey library;
  private final PointerByReference error = new PointerByReference();

  private Main(String path) {
    library = Native.load(path, Latchkey.class);
  }

  /** Throws the error of a call. */
  private void check(int code) throws LatchkeyException {
    if (code != 0) {
      String message = new Failure(error.getValue()).message.toString();
      library.lk_error_free(error.getValue());
      throw new LatchkeyException(code, message);
    }
  }

  private void run(String file) throws LatchkeyException {
    LongByReference handle = new LongByReference();
    byte[] path = file.getBytes(StandardCharsets.UTF_8);
    check(library.lk_open(Latchkey.ABI, path, path.length, null, handle, error));
    long store = handle.getValue();

    UserSpec ada = new UserSpec();
    ada.size = ada.size();
    ada.provider.set("local-userpass");
    ada.subject.set("ada@example.com");
    PointerByReference result = new PointerByReference();
    check(library.lk_create_user(store, ada, result, error));
    byte[] user = new Record(result.getValue()).id;
    library.lk_user_free(result.getValue());

    KeySpec laptop = new KeySpec();
    laptop.size = laptop.size();
    laptop.name.set("laptop");
    PointerByReference made = new PointerByReference();
    check(library.lk_create_key(store, user, laptop, result, made, error));
    byte[] key = new Record(result.getValue()).id;
    library.lk_key_free(result.getValue());
    byte[] token = new Token(made.getValue()).text.bytes();
    library.lk_token_free(made.getValue());

    check(library.lk_login(store, token, token.length, result, error));
    System.out.println(new Principal(result.getValue()).subject + " logged in");
    library.lk_principal_free(result.getValue());

    check(library.lk_disable_key(store, user, key, error));
    try {
      check(library.lk_login(store, token, token.length, result, error));
    } catch (LatchkeyException e) {
      Text why = new Text();
      library.lk_code_text(e.code, why);
      System.out.println("refused: " + why);
    }
    java.util.Arrays.fill(token, (byte) 0);
    check(library.lk_close(store, error));
  }

  public static void main(String[] args) throws LatchkeyException {
    new Main(args[0]).run(args[1]);
  }
}
