package selfgen.stack;

import com.couchbase.mock.Bucket;
import com.couchbase.mock.BucketConfiguration;
import com.couchbase.mock.CouchbaseMock;
import com.couchbase.mock.http.ControlHandler;
import com.couchbase.mock.httpio.HttpServer;
import com.couchbase.mock.memcached.MemcachedServer;
import com.couchbase.mock.memcached.Storage;
import com.couchbase.mock.memcached.VBucketStore;
import com.couchbase.mock.memcached.protocol.CommandCode;
import java.io.IOException;
import java.lang.reflect.Array;
import java.lang.reflect.Field;
import java.lang.reflect.InvocationHandler;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Proxy;
import java.net.InetSocketAddress;
import java.net.StandardSocketOptions;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.SocketChannel;
import java.nio.charset.Charset;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/**
 * The vendor's test server as a member of the local stack: fixed ports on one address, and documents that outlive it.
 *
 * <p>Arguments: HOST KV_PORT REST_PORT BUCKET JOURNAL SYNC_SECONDS. Needs {@code -Dfile.encoding=UTF-8}, because the
 * library turns keys into text with the platform's encoding. Clients connect to {@code couchbase://HOST:KV_PORT}; REST
 * serves the library's fault injection ({@code /mock/hiccup?...}).
 */
public final class CouchbaseStandIn {
    private CouchbaseStandIn() {}

    public static void main(String[] arguments) throws Exception {
        if (arguments.length != 6) {
            fail("arguments: HOST KV_PORT REST_PORT BUCKET JOURNAL SYNC_SECONDS");
        }
        if (!Charset.defaultCharset().equals(StandardCharsets.UTF_8)) {
            fail("keys would be spoiled: start Java with -Dfile.encoding=UTF-8");
        }
        // without the thread that serves clients nobody is answered: better to be started again
        Thread.setDefaultUncaughtExceptionHandler((thread, error) -> {
            error.printStackTrace();
            fail(thread.getName() + " ended");
        });
        String host = arguments[0];
        int keyValuePort = Integer.parseInt(arguments[1]);
        int restPort = Integer.parseInt(arguments[2]);

        BucketConfiguration configuration = new BucketConfiguration();
        configuration.name = arguments[3];
        configuration.password = "";
        configuration.type = Bucket.BucketType.COUCHBASE;
        configuration.hostname = host;
        configuration.bucketStartPort = keyValuePort;
        configuration.numNodes = 1;
        configuration.numReplicas = 0;

        CouchbaseMock cluster = new CouchbaseMock(restPort, List.of());
        Bucket bucket = Bucket.create(cluster, configuration);
        register(cluster, bucket);
        MemcachedServer server = bucket.getServers()[0];
        server.setCccpEnabled(true); // the SDK asks the key-value port for the cluster's map
        answerAtOnce(server);

        VBucketStore documents = server.getStorage().getCache((short) 0); // one store serves all vbuckets of a node
        startCasAt(documents, TimeUnit.MILLISECONDS.toNanos(System.currentTimeMillis()));
        Journal journal = new Journal(Path.of(arguments[4]), documents, bucket::getVbIndexForKey);
        long documentCount = journal.open(); // before any client is served
        journal.syncEvery(Double.parseDouble(arguments[5]));
        Runtime.getRuntime().addShutdownHook(new Thread(journal::close));

        HttpServer rest = new HttpServer();
        rest.bind(new InetSocketAddress(host, restPort));
        rest.register("/mock/*", new ControlHandler(cluster.getDispatcher()));
        cluster.getPoolsHandler().register(rest);
        rest.start();
        server.start();
        System.out.printf(
                "ready: couchbase://%s:%d bucket %s, %d documents%n", host, keyValuePort, bucket.getName(), documentCount);
    }

    /** The library's own createBucket would serve clients before the documents are back. */
    @SuppressWarnings("unchecked")
    private static void register(CouchbaseMock cluster, Bucket bucket) throws ReflectiveOperationException {
        Field buckets = CouchbaseMock.class.getDeclaredField("buckets");
        buckets.setAccessible(true);
        ((Map<String, Bucket>) buckets.get(cluster)).put(bucket.getName(), bucket);
    }

    /**
     * The library switches TCP_NODELAY off, which costs every group of answers 40 ms (Nagle's algorithm against delayed
     * acknowledgements). Each client's first command is HELLO; there, in the thread that owns the connections, it is
     * switched on.
     */
    private static void answerAtOnce(MemcachedServer server) throws ReflectiveOperationException {
        Field executors = MemcachedServer.class.getDeclaredField("executors");
        Field selector = MemcachedServer.class.getDeclaredField("selector");
        executors.setAccessible(true);
        selector.setAccessible(true);
        Object byCode = executors.get(server);
        Object hello = Array.get(byCode, CommandCode.HELLO.cc());
        InvocationHandler switching = (proxy, method, arguments) -> {
            for (SelectionKey key : ((Selector) selector.get(server)).keys()) {
                if (key.channel() instanceof SocketChannel client) {
                    try {
                        client.setOption(StandardSocketOptions.TCP_NODELAY, true);
                    } catch (IOException gone) {
                        // a client that has gone meanwhile: the library finds out by itself
                    }
                }
            }
            method.setAccessible(true);
            try {
                return method.invoke(hello, arguments);
            } catch (InvocationTargetException error) {
                throw error.getCause();
            }
        };
        Class<?> executor = byCode.getClass().getComponentType();
        Object wrapped = Proxy.newProxyInstance(executor.getClassLoader(), new Class<?>[] {executor}, switching);
        Array.set(byCode, CommandCode.HELLO.cc(), wrapped);
    }

    /** Counted from zero, a CAS read before a restart could match another version of its document after it. */
    private static void startCasAt(VBucketStore documents, long value) throws ReflectiveOperationException {
        Field counter = VBucketStore.class.getDeclaredField("casCounter");
        counter.setAccessible(true);
        counter.setLong(documents, value);
    }

    static void fail(String message) {
        System.err.println("error: " + message);
        Runtime.getRuntime().halt(1);
    }
}
