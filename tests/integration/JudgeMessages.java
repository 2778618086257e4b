import java.io.BufferedOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import selfgen.flink.Contract;

/**
 * Judges messages as Flink's format does: the contract's description and its fields on the command line; on standard
 * input batches of messages, each with its length before it, the batch with their number; for each message a line.
 */
public final class JudgeMessages {
    public static void main(String[] arguments) throws IOException {
        List<String> names = Arrays.asList(arguments).subList(1, arguments.length);
        Contract contract = new Contract(arguments[0], names);
        DataInputStream in = new DataInputStream(System.in);
        DataOutputStream out = new DataOutputStream(new BufferedOutputStream(System.out));
        while (true) {
            int count = in.readInt();
            if (count == 0) {
                return;
            }
            for (int number = 0; number < count; number++) {
                Object[] values = new Object[names.size()];
                boolean accepted = contract.read(in.readNBytes(in.readInt()), values);
                String line = accepted ? Arrays.toString(values) : "refused";
                byte[] bytes = line.getBytes(StandardCharsets.UTF_8);
                out.writeInt(bytes.length);
                out.write(bytes);
            }
            out.flush();
        }
    }
}
