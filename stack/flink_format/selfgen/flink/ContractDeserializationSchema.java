package selfgen.flink;

import java.util.List;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.metrics.Counter;
import org.apache.flink.table.api.ValidationException;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.data.TimestampData;
import org.apache.flink.table.types.logical.RowType;

/** Messages as rows; those that break the contract are counted and left out. */
final class ContractDeserializationSchema implements DeserializationSchema<RowData> {
    private static final long serialVersionUID = 1L;

    private final String description;
    private final List<String> columns;
    private final TypeInformation<RowData> produced;
    private transient Contract contract;
    private transient Counter refused;

    ContractDeserializationSchema(String description, RowType type, TypeInformation<RowData> produced) {
        this.description = description;
        this.columns = type.getFieldNames();
        this.produced = produced;
        List<Contract.Field> fields = new Contract(description, columns).columns();
        for (int column = 0; column < fields.size(); column++) {
            String needed = fields.get(column).kind().sqlType;
            String declared = type.getTypeAt(column).copy(true).asSummaryString();
            if (!declared.equals(needed)) {
                throw new ValidationException(
                        "The column " + columns.get(column) + " must be " + needed + ", not " + declared + ".");
            }
        }
    }

    @Override
    public void open(InitializationContext context) {
        contract = new Contract(description, columns);
        refused = context.getMetricGroup().counter("refused");
    }

    @Override
    public RowData deserialize(byte[] message) {
        Object[] values = new Object[columns.size()];
        if (message == null || !contract.read(message, values)) {
            refused.inc();
            return null;
        }
        GenericRowData row = new GenericRowData(values.length);
        for (int column = 0; column < values.length; column++) {
            row.setField(column, internal(values[column]));
        }
        return row;
    }

    /** Flink's own form of a value; those of text and time differ from Java's. */
    private static Object internal(Object value) {
        if (value instanceof String text) {
            return StringData.fromString(text);
        }
        return value instanceof Long milliseconds ? TimestampData.fromEpochMillis(milliseconds) : value;
    }

    @Override
    public boolean isEndOfStream(RowData next) {
        return false;
    }

    @Override
    public TypeInformation<RowData> getProducedType() {
        return produced;
    }
}
