package selfgen.flink;

import java.util.ArrayList;
import java.util.List;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.runtime.state.StateInitializationContext;
import org.apache.flink.runtime.state.StateSnapshotContext;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.api.Schema;
import org.apache.flink.table.api.Table;
import org.apache.flink.table.api.bridge.java.StreamTableEnvironment;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.utils.JoinedRowData;
import org.apache.flink.table.runtime.typeutils.InternalTypeInfo;
import org.apache.flink.table.types.DataType;

/**
 * Says how late each reading is, in a column more.
 *
 * <p>{@code late_s} is NULL for a reading whose second has not closed, else how many whole seconds the watermark is past
 * it. Only in time are those that the windows behind take in.
 *
 * <p>The windows have their watermark again after a restart, and drop what is behind it, while the source has none until
 * it has read a while. So the watermark is in the checkpoints here, too; a function of SQL could keep it by sensor only,
 * as of that one's last reading. The greatest of all subtasks is taken: no window is ahead of it.
 */
public final class Lateness extends AbstractStreamOperator<RowData> implements OneInputStreamOperator<RowData, RowData> {
    private static final long serialVersionUID = 1L;
    private static final DataType READING = DataTypes.ROW(
                    DataTypes.FIELD("wind_id", DataTypes.STRING()),
                    DataTypes.FIELD("event_time", DataTypes.TIMESTAMP_LTZ(3)),
                    DataTypes.FIELD("wind_speed", DataTypes.DOUBLE()),
                    DataTypes.FIELD("wind_direction", DataTypes.DOUBLE()))
            .notNull();
    private static final int TIME = 1;
    private static final long SECOND_MS = 1_000;

    private long watermark = Long.MIN_VALUE;
    private transient ListState<Long> kept;

    private Lateness() {}

    /** Return readings with how late they are. */
    public static Table of(StreamTableEnvironment env, Table readings) {
        List<DataTypes.Field> fields = new ArrayList<>(DataType.getFields(READING));
        fields.add(DataTypes.FIELD("late_s", DataTypes.BIGINT()));
        DataType told = DataTypes.ROW(fields).notNull();
        DataStream<RowData> stream = env.toDataStream(readings, READING.bridgedTo(RowData.class));
        Schema schema = Schema.newBuilder()
                .fromRowDataType(told)
                .watermark("event_time", "SOURCE_WATERMARK()")
                .build();
        return env.fromDataStream(
                stream.transform("lateness", InternalTypeInfo.of(told.getLogicalType()), new Lateness())
                        .uid("lateness"),
                schema);
    }

    @Override
    public void initializeState(StateInitializationContext context) throws Exception {
        super.initializeState(context);
        kept = context.getOperatorStateStore().getUnionListState(new ListStateDescriptor<>("watermark", Types.LONG));
        for (long each : kept.get()) {
            watermark = Math.max(watermark, each);
        }
    }

    @Override
    public void snapshotState(StateSnapshotContext context) throws Exception {
        super.snapshotState(context);
        kept.update(List.of(watermark));
    }

    @Override
    public void processWatermark(Watermark mark) throws Exception {
        watermark = Math.max(watermark, mark.getTimestamp());
        super.processWatermark(mark);
    }

    @Override
    public void processElement(StreamRecord<RowData> reading) {
        RowData row = reading.getValue();
        long at = row.getTimestamp(TIME, 3).getMillisecond();
        output.collect(reading.replace(new JoinedRowData(row.getRowKind(), row, GenericRowData.of(late(at)))));
    }

    /** A second closes when the watermark reaches its last millisecond. */
    private Long late(long at) {
        long last = Math.floorDiv(at, SECOND_MS) * SECOND_MS + SECOND_MS - 1;
        return watermark < last ? null : (watermark - at) / SECOND_MS;
    }
}
