package selfgen.stack;

import com.couchbase.mock.deps.com.google.gson.Gson;
import com.couchbase.mock.deps.com.google.gson.GsonBuilder;
import com.couchbase.mock.memcached.Item;
import com.couchbase.mock.memcached.KeySpec;
import com.couchbase.mock.memcached.VBucketStore;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.nio.channels.ClosedChannelException;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.Base64;
import java.util.function.ToIntFunction;

/**
 * Keeps a store's documents in a file: one JSON line for each change, written before the client has its answer.
 *
 * <p>So a killed server loses nothing that it acknowledged; a machine that loses power, at most the time between two
 * syncs. The file is rewritten with the living documents alone when it is opened, and when most of its lines are of
 * documents that were changed or removed since. Clients wait for neither a sync nor, as long as documents only come, a
 * rewriting.
 */
final class Journal {
    private static final long REWRITE_BYTES = 64L << 20;
    private static final int REWRITE_FACTOR = 4;
    private static final int BUFFER_BYTES = 1 << 20;

    private final Path file;
    private final VBucketStore documents;
    private final ToIntFunction<String> vbucketOfKey;
    private final Gson json = new GsonBuilder().disableHtmlEscaping().create();
    private FileChannel channel;
    private long lines;
    private volatile boolean dirty;

    /** One line; {@code value} is Base64, null where the document was removed. */
    private static final class Line {
        String key;
        int flags;
        int expiry;
        byte datatype;
        String value;
    }

    Journal(Path file, VBucketStore documents, ToIntFunction<String> vbucketOfKey) {
        this.file = file.toAbsolutePath();
        this.documents = documents;
        this.vbucketOfKey = vbucketOfKey;
    }

    /** Read the documents of earlier runs, then follow every change; return their number. */
    long open() throws IOException {
        Files.createDirectories(file.getParent());
        if (Files.exists(file)) {
            read();
        }
        rewrite();
        VBucketStore.ItemAction stored = documents.onItemMutated;
        documents.onItemMutated = (store, item, coordinates) -> {
            stored.onAction(store, item, coordinates);
            append(lineOf(item));
        };
        VBucketStore.ItemAction deleted = documents.onItemDelete;
        documents.onItemDelete = (store, item, coordinates) -> {
            deleted.onAction(store, item, coordinates);
            Line line = new Line();
            line.key = item.getKeySpec().key;
            append(line);
        };
        return documents.getMap().size();
    }

    /** Force the file to the disk at intervals, where anything changed. */
    void syncEvery(double seconds) {
        Thread thread = new Thread(() -> {
            while (true) {
                try {
                    Thread.sleep((long) (seconds * 1000));
                    sync();
                } catch (InterruptedException stop) {
                    return;
                }
            }
        }, "journal-sync");
        thread.setDaemon(true);
        thread.start();
    }

    synchronized void close() {
        sync();
    }

    private void sync() {
        FileChannel written = toSync();
        if (written == null) {
            return;
        }
        try {
            written.force(false);
        } catch (ClosedChannelException rewritten) {
            // the file that took its place is on the disk
        } catch (IOException problem) {
            CouchbaseStandIn.fail("cannot write " + file + ": " + problem);
        }
    }

    private synchronized FileChannel toSync() {
        FileChannel written = dirty ? channel : null;
        dirty = false;
        return written;
    }

    private synchronized void append(Line line) {
        try {
            write(channel, ByteBuffer.wrap(bytesOf(line)));
            dirty = true;
            lines++;
            if (channel.position() > REWRITE_BYTES && lines > REWRITE_FACTOR * documents.getMap().size()) {
                rewrite();
            }
        } catch (IOException problem) {
            // without its journal the server would forget what it acknowledges
            CouchbaseStandIn.fail("cannot write " + file + ": " + problem);
        }
    }

    private void read() throws IOException {
        String content = null;
        // unlike Files.newBufferedReader, this reader does not stop at a character that a kill cut in two
        try (BufferedReader lines =
                new BufferedReader(new InputStreamReader(Files.newInputStream(file), StandardCharsets.UTF_8))) {
            for (String next = lines.readLine(); next != null; next = lines.readLine()) {
                if (content != null) {
                    apply(json.fromJson(content, Line.class));
                }
                content = next;
            }
        }
        // a last line without its end was cut by a kill, before its client was answered
        if (content != null && endsWithNewline()) {
            apply(json.fromJson(content, Line.class));
        }
    }

    private boolean endsWithNewline() throws IOException {
        try (FileChannel reader = FileChannel.open(file, StandardOpenOption.READ)) {
            ByteBuffer last = ByteBuffer.allocate(1);
            reader.read(last, reader.size() - 1);
            return last.get(0) == '\n';
        }
    }

    private void apply(Line line) {
        KeySpec key = new KeySpec(line.key, (short) vbucketOfKey.applyAsInt(line.key));
        if (line.value == null) {
            documents.getMap().remove(key);
        } else {
            byte[] value = Base64.getDecoder().decode(line.value);
            documents.set(new Item(key, line.flags, line.expiry, value, null, 0, line.datatype), false);
        }
    }

    private void rewrite() throws IOException {
        Path fresh = file.resolveSibling(file.getFileName() + ".new");
        FileChannel rewritten = FileChannel.open(
                fresh, StandardOpenOption.CREATE, StandardOpenOption.WRITE, StandardOpenOption.TRUNCATE_EXISTING);
        ByteBuffer buffer = ByteBuffer.allocate(BUFFER_BYTES);
        for (Item item : documents.getMap().values()) {
            byte[] bytes = bytesOf(lineOf(item));
            if (bytes.length > buffer.remaining()) {
                write(rewritten, buffer.flip());
                buffer.clear();
            }
            if (bytes.length > buffer.capacity()) {
                write(rewritten, ByteBuffer.wrap(bytes));
            } else {
                buffer.put(bytes);
            }
        }
        write(rewritten, buffer.flip());
        rewritten.force(true);
        Files.move(fresh, file, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
        try (FileChannel folder = FileChannel.open(file.getParent(), StandardOpenOption.READ)) {
            folder.force(true);
        }
        if (channel != null) {
            channel.close();
        }
        channel = rewritten;
        lines = documents.getMap().size();
        dirty = false;
    }

    private Line lineOf(Item item) {
        Line line = new Line();
        line.key = item.getKeySpec().key;
        line.flags = item.getFlags();
        line.expiry = item.getExpiryTime();
        line.datatype = item.getDatatype();
        line.value = Base64.getEncoder().encodeToString(item.getValue());
        return line;
    }

    private byte[] bytesOf(Line line) {
        return (json.toJson(line) + "\n").getBytes(StandardCharsets.UTF_8);
    }

    private static void write(FileChannel target, ByteBuffer bytes) throws IOException {
        while (bytes.hasRemaining()) {
            target.write(bytes);
        }
    }
}
