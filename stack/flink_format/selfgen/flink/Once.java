package selfgen.flink;

import java.util.Arrays;
import org.apache.flink.table.annotation.ArgumentHint;
import org.apache.flink.table.annotation.ArgumentTrait;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.annotation.StateHint;
import org.apache.flink.table.api.dataview.MapView;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.functions.ProcessTableFunction;

/**
 * Passes each reading of a sensor once, and says how late it is.
 *
 * <p>Two readings of a sensor with the same event time are one. The times seen are kept by ten seconds, in order, as
 * long as {@code table.exec.state.ttl} says; a sensor's state is a few arrays instead of an entry for each reading.
 *
 * <p>{@code late_s} is NULL for a reading whose second has not closed, else how many whole seconds the watermark is past
 * it. Only in time are those that the windows behind take in.
 *
 * <p>Readings are rows of (sensor, time, speed, direction), taken as Flink holds them.
 */
@DataTypeHint(value = "ROW<wind_speed DOUBLE, wind_direction DOUBLE, late_s BIGINT>", bridgedTo = RowData.class)
public final class Once extends ProcessTableFunction<RowData> {
    private static final long serialVersionUID = 1L;
    private static final long SPAN_MS = 10_000;
    private static final long SECOND_MS = 1_000;
    private static final int SPEED = 2;
    private static final int DIRECTION = 3;

    public void eval(
            Context context,
            @StateHint MapView<Long, long[]> seen,
            @ArgumentHint(
                            name = "readings",
                            value = {ArgumentTrait.SET_SEMANTIC_TABLE, ArgumentTrait.REQUIRE_ON_TIME})
                    RowData reading)
            throws Exception {
        TimeContext<Long> time = context.timeContext(Long.class);
        long at = time.time();
        long span = Math.floorDiv(at, SPAN_MS);
        long[] times = seen.get(span);
        int place = times == null ? -1 : Arrays.binarySearch(times, at);
        if (place >= 0) {
            return;
        }
        seen.put(span, with(times == null ? new long[0] : times, -place - 1, at));
        collect(GenericRowData.of(
                reading.isNullAt(SPEED) ? null : reading.getDouble(SPEED),
                reading.isNullAt(DIRECTION) ? null : reading.getDouble(DIRECTION),
                late(time.currentWatermark(), at)));
    }

    private static long[] with(long[] times, int place, long at) {
        long[] more = Arrays.copyOf(times, times.length + 1);
        System.arraycopy(times, place, more, place + 1, times.length - place);
        more[place] = at;
        return more;
    }

    /** A second closes when the watermark reaches its last millisecond. */
    private static Long late(Long watermark, long at) {
        long last = Math.floorDiv(at, SECOND_MS) * SECOND_MS + SECOND_MS - 1;
        return watermark == null || watermark < last ? null : (watermark - at) / SECOND_MS;
    }
}
