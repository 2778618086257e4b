package selfgen.flink;

import java.util.ArrayList;
import java.util.List;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.functions.KeySelector;
import org.apache.flink.runtime.state.StateInitializationContext;
import org.apache.flink.runtime.state.StateSnapshotContext;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.DataStreamUtils;
import org.apache.flink.streaming.api.datastream.KeyedStream;
import org.apache.flink.streaming.api.datastream.SingleOutputStreamOperator;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.InternalTimer;
import org.apache.flink.streaming.api.operators.InternalTimerService;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Triggerable;
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
import org.apache.flink.util.OutputTag;

/**
 * Passes each reading of a sensor once, those that are too late for their window apart.
 *
 * <p>Two readings of a sensor with the same event time are one. A reading is late when its second has closed; it then has
 * a column more, how many whole seconds the watermark is past it. Only the others are taken in by the windows behind.
 *
 * <p>The windows have their watermark again after a restart, and drop what is behind it, while the source has none until
 * it has read a while. So the watermark is in the checkpoints here, too; a function of SQL could keep it by sensor only,
 * as of that one's last reading. The greatest of all subtasks is taken: no window is ahead of it.
 */
public final class FirstArrivals extends AbstractStreamOperator<RowData>
        implements OneInputStreamOperator<RowData, RowData>, Triggerable<String, VoidNamespace> {
    private static final long serialVersionUID = 1L;
    private static final DataType READING = DataTypes.ROW(
                    DataTypes.FIELD("wind_id", DataTypes.STRING()),
                    DataTypes.FIELD("event_time", DataTypes.TIMESTAMP_LTZ(3)),
                    DataTypes.FIELD("wind_speed", DataTypes.DOUBLE()),
                    DataTypes.FIELD("wind_direction", DataTypes.DOUBLE()))
            .notNull();
    private static final DataType LATE_READING = withLateness();
    private static final int ID = 0;
    private static final int TIME = 1;
    private static final long SECOND_MS = 1_000;

    private final long keptMs;
    private final OutputTag<RowData> lateOnes;
    private long watermark = Long.MIN_VALUE;
    private transient ListState<Long> kept;
    private transient ValueState<SeenTimes> seen;
    private transient InternalTimerService<VoidNamespace> timers;

    private FirstArrivals(long keptMs, OutputTag<RowData> lateOnes) {
        this.keptMs = keptMs;
        this.lateOnes = lateOnes;
    }

    /**
     * Create two views of readings.
     *
     * @param keptMs how far the watermark goes past a reading before its like counts again
     * @param inTime name of the view of those that are in time
     * @param late name of the view of the others, with their {@code late_s}
     */
    public static void createViews(
            StreamTableEnvironment env, Table readings, long keptMs, String inTime, String late) {
        KeyedStream<RowData, String> keyed = bySensor(env.toDataStream(readings, READING.bridgedTo(RowData.class)));
        OutputTag<RowData> lateOnes = new OutputTag<>("late", InternalTypeInfo.of(LATE_READING.getLogicalType()));
        SingleOutputStreamOperator<RowData> first = keyed.transform(
                        "first arrivals",
                        InternalTypeInfo.of(READING.getLogicalType()),
                        new FirstArrivals(keptMs, lateOnes))
                .uid("first-arrivals");
        env.createTemporaryView(inTime, table(env, first, READING));
        env.createTemporaryView(late, table(env, first.getSideOutput(lateOnes), LATE_READING));
    }

    private static DataType withLateness() {
        List<DataTypes.Field> fields = new ArrayList<>(DataType.getFields(READING));
        fields.add(DataTypes.FIELD("late_s", DataTypes.BIGINT().notNull()));
        return DataTypes.ROW(fields).notNull();
    }

    /** One subtask has all sensors as they come; exchanging them with itself would cost more than all the rest here. */
    private static KeyedStream<RowData, String> bySensor(DataStream<RowData> readings) {
        KeySelector<RowData, String> sensor = reading -> reading.getString(ID).toString();
        return readings.getExecutionEnvironment().getParallelism() == 1
                ? DataStreamUtils.reinterpretAsKeyedStream(readings, sensor, Types.STRING)
                : readings.keyBy(sensor, Types.STRING);
    }

    private static Table table(StreamTableEnvironment env, DataStream<RowData> rows, DataType type) {
        Schema schema = Schema.newBuilder()
                .fromRowDataType(type)
                .watermark("event_time", "SOURCE_WATERMARK()")
                .build();
        return env.fromDataStream(rows, schema);
    }

    @Override
    public void initializeState(StateInitializationContext context) throws Exception {
        super.initializeState(context);
        kept = context.getOperatorStateStore().getUnionListState(new ListStateDescriptor<>("watermark", Types.LONG));
        for (long each : kept.get()) {
            watermark = Math.max(watermark, each);
        }
        seen = context.getKeyedStateStore()
                .getState(new ValueStateDescriptor<>("seen", SeenTimes.Serializer.INSTANCE));
    }

    @Override
    public void open() throws Exception {
        super.open();
        timers = getInternalTimerService("forget", VoidNamespaceSerializer.INSTANCE, this);
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
    public void processElement(StreamRecord<RowData> reading) throws Exception {
        long at = reading.getValue().getTimestamp(TIME, 3).getMillisecond();
        if (!isFirst(at)) {
            return;
        }
        if (watermark < lastOfSecond(at)) {
            output.collect(reading);
        } else {
            GenericRowData late = GenericRowData.of((watermark - at) / SECOND_MS);
            output.collect(lateOnes, reading.copy(new JoinedRowData(reading.getValue(), late)));
        }
    }

    private boolean isFirst(long at) throws Exception {
        SeenTimes times = seen.value();
        if (times == null) {
            times = new SeenTimes();
            times.add(at, watermark, keptMs);
            timers.registerEventTimeTimer(VoidNamespace.INSTANCE, times.forget(Long.MIN_VALUE));
        } else if (!times.add(at, watermark, keptMs)) {
            return false;
        }
        seen.update(times);
        return true;
    }

    /** A second closes when the watermark reaches its last millisecond. */
    private static long lastOfSecond(long at) {
        return Math.floorDiv(at, SECOND_MS) * SECOND_MS + SECOND_MS - 1;
    }

    @Override
    public void onEventTime(InternalTimer<String, VoidNamespace> timer) throws Exception {
        SeenTimes times = seen.value();
        long next = times.forget(timer.getTimestamp());
        if (next == Long.MAX_VALUE) {
            seen.clear();
        } else {
            seen.update(times);
            timers.registerEventTimeTimer(VoidNamespace.INSTANCE, next);
        }
    }

    @Override
    public void onProcessingTime(InternalTimer<String, VoidNamespace> timer) {}
}
