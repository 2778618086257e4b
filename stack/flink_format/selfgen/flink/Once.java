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
 * Passes each reading of a sensor once.
 *
 * <p>Two readings of a sensor with the same event time are one. The times seen are kept by ten seconds, in order, until
 * the watermark is {@code kept_ms} past them, or past when the first of them came where that was late; a sensor's
 * state is a few arrays instead of an entry for each reading.
 *
 * <p>Readings and results are taken and given as Flink holds them: converting them would cost as much as all the rest.
 * For the same reason times are forgotten by timers, and not by Flink's time to live, which looks at every entry.
 */
@DataTypeHint(value = "ROW<wind_speed DOUBLE, wind_direction DOUBLE>", bridgedTo = RowData.class)
public final class Once extends ProcessTableFunction<RowData> {
    private static final long serialVersionUID = 1L;
    private static final String READING =
            "ROW<wind_id STRING, event_time TIMESTAMP_LTZ(3), wind_speed DOUBLE, wind_direction DOUBLE>";
    private static final int SPEED = 2;
    private static final int DIRECTION = 3;
    private static final long SPAN_MS = 10_000;

    public void eval(
            Context context,
            @StateHint(ttl = "0") MapView<Long, long[]> seen,
            @ArgumentHint(
                            name = "readings",
                            type = @DataTypeHint(value = READING, bridgedTo = RowData.class),
                            value = {ArgumentTrait.SET_SEMANTIC_TABLE, ArgumentTrait.REQUIRE_ON_TIME})
                    RowData reading,
            @ArgumentHint(name = "kept_ms") Long keptMs)
            throws Exception {
        TimeContext<Long> time = context.timeContext(Long.class);
        long at = time.time();
        long span = Math.floorDiv(at, SPAN_MS);
        long[] times = seen.get(span);
        if (times == null) {
            long end = (span + 1) * SPAN_MS;
            Long watermark = time.currentWatermark();
            time.registerOnTime(Long.toString(span), keptMs + (watermark == null ? end : Math.max(end, watermark)));
            times = new long[0];
        }
        int place = Arrays.binarySearch(times, at);
        if (place >= 0) {
            return;
        }
        seen.put(span, with(times, -place - 1, at));
        collect(GenericRowData.of(
                reading.isNullAt(SPEED) ? null : reading.getDouble(SPEED),
                reading.isNullAt(DIRECTION) ? null : reading.getDouble(DIRECTION)));
    }

    public void onTimer(OnTimerContext context, MapView<Long, long[]> seen) throws Exception {
        seen.remove(Long.valueOf(context.currentTimer()));
    }

    private static long[] with(long[] times, int place, long at) {
        long[] more = Arrays.copyOf(times, times.length + 1);
        System.arraycopy(times, place, more, place + 1, times.length - place);
        more[place] = at;
        return more;
    }
}
