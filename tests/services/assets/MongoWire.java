import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.wire.message.MongoMessage;
import java.util.List;
import java.util.Set;
import org.h2.mvstore.MVStore;

/** mongo-java-server on a port of 127.0.0.1 with an H2 file behind it: `MongoWire PORT FILE`. */
public class MongoWire {
    // By itself the server announces wire version 8; pymongo since 4.11 wants 9 or newer. It speaks OP_MSG all the same.
    static final MongoVersion ANNOUNCED = new MongoVersion() {
        public List<Integer> getVersionArray() { return List.of(6, 0, 0); }
        public int getWireVersion() { return 17; }
    };

    static final Set<String> READING = Set.of("find", "getMore", "count", "aggregate", "hello", "ismaster", "ping");

    public static void main(String[] args) throws Exception {
        // H2 writes in the background, once a second: a kill would lose what was acknowledged, which a journaled
        // MongoDB never does. So what a command changed reaches the file before its answer; one that only reads does not
        // wait for what others write.
        // A document that is not in the cache is deserialised with all others of its page: with H2's 16 MB a look at
        // 20,000 took 1.5 to 2.8 s, in which no other command is served, and with all of them cached 0.08 to 0.15.
        int quarterOfHeap = (int) (Runtime.getRuntime().maxMemory() >> 22);
        MVStore file = new MVStore.Builder().fileName(args[1]).cacheSize(quarterOfHeap).open();
        H2Backend backend = new H2Backend(file) {
            public Document handleMessage(MongoMessage message) {
                Document answer = super.handleMessage(message);
                if (!READING.contains(message.getDocument().keySet().iterator().next())) {
                    commit();
                }
                return answer;
            }
        };
        MongoServer server = new MongoServer(backend.version(ANNOUNCED));
        server.bind("127.0.0.1", Integer.parseInt(args[0]));
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow));
        Thread.currentThread().join();
    }
}
