import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import org.apache.flink.core.memory.DataInputDeserializer;
import org.apache.flink.core.memory.DataOutputSerializer;
import selfgen.flink.SeenTimes;

/**
 * Notes times as the wind job does: how long they are kept on the command line; on standard input a line for each time
 * ("add TIME WATERMARK": answered by whether it is new), each timer ("forget WATERMARK": by when the next is due) and each
 * checkpoint ("snapshot": what was written before it goes on, "restore": the last one goes on).
 */
public final class RememberTimes {
    public static void main(String[] arguments) throws IOException {
        long keptMs = Long.parseLong(arguments[0]);
        SeenTimes.Serializer serializer = new SeenTimes.Serializer();
        SeenTimes seen = new SeenTimes();
        SeenTimes held = seen;
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = line.split(" ");
            switch (words[0]) {
                case "add" -> System.out.println(seen.add(Long.parseLong(words[1]), Long.parseLong(words[2]), keptMs));
                case "forget" -> System.out.println(seen.forget(Long.parseLong(words[1])));
                case "snapshot" -> {
                    held = seen;
                    seen = serializer.copy(seen);
                }
                case "restore" -> {
                    DataOutputSerializer written = new DataOutputSerializer(64);
                    serializer.serialize(held, written);
                    seen = serializer.deserialize(new DataInputDeserializer(written.getCopyOfBuffer()));
                    held = serializer.copy(seen);
                }
                default -> throw new IllegalArgumentException(line);
            }
        }
    }
}
