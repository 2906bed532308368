import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.wire.message.MongoMessage;
import java.util.List;

/** mongo-java-server on a port of 127.0.0.1 with an H2 file behind it: `MongoWire PORT FILE`. */
public class MongoWire {
    // By itself the server announces wire version 8; pymongo since 4.11 wants 9 or newer. It speaks OP_MSG all the same.
    static final MongoVersion ANNOUNCED = new MongoVersion() {
        public List<Integer> getVersionArray() { return List.of(6, 0, 0); }
        public int getWireVersion() { return 17; }
    };

    public static void main(String[] args) throws Exception {
        // H2 writes in the background, once a second: a kill would lose what was acknowledged, which a journaled
        // MongoDB never does. So what a command changed reaches the file before its answer.
        H2Backend backend = new H2Backend(args[1]) {
            public Document handleMessage(MongoMessage message) {
                Document answer = super.handleMessage(message);
                commit();
                return answer;
            }
        };
        MongoServer server = new MongoServer(backend.version(ANNOUNCED));
        server.bind("127.0.0.1", Integer.parseInt(args[0]));
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow));
        Thread.currentThread().join();
    }
}
