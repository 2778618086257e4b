package selfgen.flink;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import org.apache.flink.api.common.typeutils.SimpleTypeSerializerSnapshot;
import org.apache.flink.api.common.typeutils.TypeSerializerSnapshot;
import org.apache.flink.api.common.typeutils.base.TypeSerializerSingleton;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;

/**
 * The event times of a sensor's readings, two bytes each, to know one that comes again.
 *
 * <p>They are kept by spans of 2^16 ms, each until the watermark is so far past its end, or past when the last of it came
 * where that was late.
 */
public final class SeenTimes {
    private static final int SPAN_BITS = 16;

    /** What is in a span: the first {@code size} of {@code offsets}, in order. Behind them only the newest may write. */
    private record Span(long number, long forgottenAt, int size, char[] offsets) {

        /** Return the span with one more, or null where it has it. */
        Span with(char offset, long until) {
            long later = Math.max(forgottenAt, until);
            if (offset > offsets[size - 1]) {
                char[] room = size < offsets.length ? offsets : Arrays.copyOf(offsets, size + (size >> 1) + 1);
                room[size] = offset;
                return new Span(number, later, size + 1, room);
            }
            int found = Arrays.binarySearch(offsets, 0, size, offset);
            if (found >= 0) {
                return null;
            }
            int place = -found - 1;
            char[] more = Arrays.copyOf(offsets, size + 1);
            System.arraycopy(offsets, place, more, place + 1, size - place);
            more[place] = offset;
            return new Span(number, later, size + 1, more);
        }
    }

    /** In order of time. */
    private final List<Span> spans;

    public SeenTimes() {
        this(List.of());
    }

    private SeenTimes(Collection<Span> spans) {
        this.spans = new ArrayList<>(spans);
    }

    /**
     * Note a time, epoch ms; return whether it is new.
     *
     * @param keptMs how far the watermark is to go past it before it is forgotten
     */
    public boolean add(long at, long watermark, long keptMs) {
        long number = at >> SPAN_BITS;
        char offset = (char) at;
        long until = keptMs + Math.max(number + 1 << SPAN_BITS, watermark);
        int place = spans.size() - 1;
        while (place >= 0 && spans.get(place).number > number) {
            place--;
        }
        if (place < 0 || spans.get(place).number < number) {
            spans.add(place + 1, new Span(number, until, 1, new char[] {offset}));
            return true;
        }
        Span more = spans.get(place).with(offset, until);
        if (more == null) {
            return false;
        }
        spans.set(place, more);
        return true;
    }

    /** Forget what the watermark is far enough past; return the watermark of the next to be forgotten, or the greatest. */
    public long forget(long watermark) {
        spans.removeIf(span -> span.forgottenAt <= watermark);
        return spans.stream().mapToLong(Span::forgottenAt).min().orElse(Long.MAX_VALUE);
    }

    /** How they are written; a copy shares all but the list, as spans do not change. */
    public static final class Serializer extends TypeSerializerSingleton<SeenTimes> {
        private static final long serialVersionUID = 1L;
        static final Serializer INSTANCE = new Serializer();

        @Override
        public void serialize(SeenTimes seen, DataOutputView target) throws IOException {
            target.writeInt(seen.spans.size());
            for (Span span : seen.spans) {
                target.writeLong(span.number);
                target.writeLong(span.forgottenAt);
                target.writeInt(span.size);
                byte[] bytes = new byte[span.size * Character.BYTES];
                ByteBuffer.wrap(bytes).asCharBuffer().put(span.offsets, 0, span.size);
                target.write(bytes);
            }
        }

        @Override
        public SeenTimes deserialize(DataInputView source) throws IOException {
            SeenTimes seen = new SeenTimes();
            for (int left = source.readInt(); left > 0; left--) {
                long number = source.readLong();
                long forgottenAt = source.readLong();
                char[] offsets = new char[source.readInt()];
                byte[] bytes = new byte[offsets.length * Character.BYTES];
                source.readFully(bytes);
                ByteBuffer.wrap(bytes).asCharBuffer().get(offsets);
                seen.spans.add(new Span(number, forgottenAt, offsets.length, offsets));
            }
            return seen;
        }

        @Override
        public SeenTimes copy(SeenTimes seen) {
            return new SeenTimes(seen.spans);
        }

        @Override
        public SeenTimes createInstance() {
            return new SeenTimes();
        }

        @Override
        public boolean isImmutableType() {
            return false;
        }

        @Override
        public SeenTimes copy(SeenTimes seen, SeenTimes reuse) {
            return copy(seen);
        }

        @Override
        public SeenTimes deserialize(SeenTimes reuse, DataInputView source) throws IOException {
            return deserialize(source);
        }

        @Override
        public void copy(DataInputView source, DataOutputView target) throws IOException {
            serialize(deserialize(source), target);
        }

        @Override
        public int getLength() {
            return -1;
        }

        @Override
        public TypeSerializerSnapshot<SeenTimes> snapshotConfiguration() {
            return new Snapshot();
        }

        /** What a checkpoint says of the serializer. */
        public static final class Snapshot extends SimpleTypeSerializerSnapshot<SeenTimes> {
            public Snapshot() {
                super(() -> INSTANCE);
            }
        }
    }
}
