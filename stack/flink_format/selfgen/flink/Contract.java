package selfgen.flink;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonFactory;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonParser;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonProcessingException;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonToken;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.StreamReadConstraints;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.StreamReadFeature;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.ObjectMapper;

/**
 * Judges messages in one pass over their bytes, as `selfgen.messages.decode` does but for what is ahead of the clock.
 *
 * <p>Not for several threads at once.
 */
public final class Contract {
    enum Kind {
        ID("STRING"),
        TIME("TIMESTAMP_LTZ(3)"),
        NUMBER("DOUBLE");

        final String sqlType;

        Kind(String sqlType) {
            this.sqlType = sqlType;
        }
    }

    /** A declared field: where it goes (negative: nowhere), its bit among the required ones, and its limits. */
    record Field(
            Kind kind,
            int column,
            long requiredBit,
            int maxLength,
            double least,
            double most,
            double below) {

        boolean holds(double value) {
            return value >= least && value <= most && value < below;
        }
    }

    private static final JsonFactory JSON = JsonFactory.builder()
            .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
            .enable(StreamReadFeature.USE_FAST_DOUBLE_PARSER)
            // neither a byte order mark nor UTF-16 is taken
            .disable(JsonFactory.Feature.CHARSET_DETECTION)
            // names come from outside: they are not kept for ever, and many alike are no error
            .disable(JsonFactory.Feature.INTERN_FIELD_NAMES)
            .disable(JsonFactory.Feature.FAIL_ON_SYMBOL_HASH_OVERFLOW)
            // a message's own limits are the contract's
            .streamReadConstraints(StreamReadConstraints.builder()
                    .maxNumberLength(Integer.MAX_VALUE)
                    .maxStringLength(Integer.MAX_VALUE)
                    .maxNameLength(Integer.MAX_VALUE)
                    .build())
            .build();

    private final int maxBytes;
    private final int maxDepth;
    private final Map<String, Field> fields = new HashMap<>();
    private final List<Field> columns = new ArrayList<>();
    private final long required;

    /**
     * @param description as flink_jobs/contract.py makes it
     * @param names of the fields that are read out, in the order of their columns
     */
    public Contract(String description, List<String> names) {
        JsonNode root;
        try {
            root = new ObjectMapper().readTree(description);
        } catch (JsonProcessingException error) {
            throw new IllegalArgumentException("the contract's description is not JSON", error);
        }
        maxBytes = root.required("max_bytes").asInt();
        maxDepth = root.required("max_depth").asInt();
        long all = 0;
        for (JsonNode node : root.required("fields")) {
            String name = node.required("name").asText();
            long bit = node.required("required").asBoolean() ? 1L << fields.size() : 0;
            all |= bit;
            fields.put(
                    name,
                    new Field(
                            Kind.valueOf(node.required("kind").asText().toUpperCase(Locale.ROOT)),
                            names.indexOf(name),
                            bit,
                            node.path("max_length").asInt(Integer.MAX_VALUE),
                            node.path("least").asDouble(-Double.MAX_VALUE),
                            node.path("most").asDouble(Double.MAX_VALUE),
                            node.path("below").asDouble(Double.POSITIVE_INFINITY)));
        }
        required = all;
        for (String name : names) {
            if (!fields.containsKey(name)) {
                throw new IllegalArgumentException("the contract has no field " + name);
            }
            columns.add(fields.get(name));
        }
    }

    List<Field> columns() {
        return columns;
    }

    /**
     * Return whether a message is accepted, and read its fields out.
     *
     * @param into takes a String, a Long (epoch ms) or a Double for each column that the message has
     */
    public boolean read(byte[] message, Object[] into) {
        if (message.length == 0 || message.length > maxBytes) {
            return false;
        }
        boolean ascii = true;
        boolean escapes = false;
        for (byte each : message) {
            ascii &= each >= 0;
            escapes |= each == '\\';
        }
        if (!ascii && !isUtf8(message)) {
            return false;
        }
        try (JsonParser parser = JSON.createParser(message)) {
            return parser.nextToken() == JsonToken.START_OBJECT
                    && readObject(parser, escapes, into)
                    && parser.nextToken() == null;
        } catch (IOException malformed) {
            return false;
        }
    }

    private boolean readObject(JsonParser parser, boolean escapes, Object[] into) throws IOException {
        long missing = required;
        for (String name = parser.nextFieldName(); name != null; name = parser.nextFieldName()) {
            JsonToken token = parser.nextToken();
            Field field = fields.get(name);
            if (field == null) {
                if (escapes && !isStorableName(name) || !isStorable(parser, token, escapes)) {
                    return false;
                }
                continue;
            }
            missing &= ~field.requiredBit;
            if (token == JsonToken.VALUE_NULL && field.requiredBit == 0) {
                continue;
            }
            Object value = value(field, parser, token);
            if (value == null) {
                return false;
            }
            if (field.column >= 0) {
                into[field.column] = value;
            }
        }
        return missing == 0;
    }

    /** Return the value of a declared field, or null where it breaks the contract. */
    private static Object value(Field field, JsonParser parser, JsonToken token) throws IOException {
        return switch (field.kind) {
            case ID -> token == JsonToken.VALUE_STRING ? id(field, parser.getText()) : null;
            case TIME -> time(field, parser, token);
            case NUMBER -> {
                if (!token.isNumeric()) {
                    yield null;
                }
                double number = parser.getDoubleValue();
                yield field.holds(number) ? number : null;
            }
        };
    }

    private static String id(Field field, String text) {
        int bytes = 0;
        for (int place = 0; place < text.length(); place++) {
            char each = text.charAt(place);
            if (each < 0x20 || each >= 0x7f && each < 0xa0) {
                return null;
            }
            // each half of a pair stands for two of its four bytes
            bytes += each < 0x80 ? 1 : each < 0x800 || Character.isSurrogate(each) ? 2 : 3;
        }
        return bytes >= 1 && bytes <= field.maxLength && isWhole(text) ? text : null;
    }

    private static Long time(Field field, JsonParser parser, JsonToken token) throws IOException {
        long milliseconds = EventTime.NONE;
        double most = Double.MAX_VALUE;
        if (token == JsonToken.VALUE_STRING) {
            String text = parser.getText();
            if (text.length() <= field.maxLength) {
                milliseconds = EventTime.parse(text);
            }
        } else if (token == JsonToken.VALUE_NUMBER_INT && parser.getNumberType() != JsonParser.NumberType.BIG_INTEGER) {
            milliseconds = parser.getLongValue();
            most = field.most;
        } else if (token == JsonToken.VALUE_NUMBER_FLOAT) {
            double number = parser.getDoubleValue();
            milliseconds = number == Math.rint(number) ? (long) number : EventTime.NONE;
            most = field.most;
        }
        return milliseconds >= field.least && milliseconds <= most ? milliseconds : null;
    }

    /** Return whether a store can keep an undeclared value; the parser then stands at its end. */
    private boolean isStorable(JsonParser parser, JsonToken first, boolean escapes) throws IOException {
        int depth = 1;
        for (JsonToken token = first; ; token = parser.nextToken()) {
            boolean storable = switch (token) {
                case START_OBJECT, START_ARRAY -> ++depth <= maxDepth;
                case END_OBJECT, END_ARRAY -> --depth >= 1;
                case FIELD_NAME -> !escapes || isStorableName(parser.currentName());
                case VALUE_STRING -> !escapes || isWhole(parser.getText());
                case VALUE_NUMBER_INT -> parser.getNumberType() != JsonParser.NumberType.BIG_INTEGER;
                case VALUE_NUMBER_FLOAT -> Double.isFinite(parser.getDoubleValue());
                default -> true;
            };
            if (!storable) {
                return false;
            }
            if (depth == 1) {
                return true;
            }
        }
    }

    private static boolean isStorableName(String name) {
        return name.indexOf(0) < 0 && isWhole(name);
    }

    /** Return whether no half of a surrogate pair stands alone. */
    private static boolean isWhole(String text) {
        for (int place = 0; place < text.length(); place++) {
            char each = text.charAt(place);
            if (!Character.isSurrogate(each)) {
                continue;
            }
            boolean pair = Character.isHighSurrogate(each)
                    && ++place < text.length()
                    && Character.isLowSurrogate(text.charAt(place));
            if (!pair) {
                return false;
            }
        }
        return true;
    }

    private static boolean isUtf8(byte[] message) {
        try {
            StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(message));
            return true;
        } catch (CharacterCodingException error) {
            return false;
        }
    }
}
