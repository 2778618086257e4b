package selfgen.flink;

import java.time.LocalDate;
import java.time.YearMonth;

/** RFC 3339 with an offset, as msgspec reads it: to the nearest microsecond, of which the milliseconds count. */
final class EventTime {
    /** What is no time. */
    static final long NONE = Long.MIN_VALUE;

    private static final int SHORTEST = "2000-01-01T00:00:00Z".length();
    private static final long DAY_MS = 86_400_000;

    private EventTime() {}

    /** Return epoch ms, or NONE. */
    static long parse(String text) {
        if (text.length() < SHORTEST || !laidOut(text)) {
            return NONE;
        }
        int year = digits(text, 0, 4);
        int month = digits(text, 5, 2);
        int day = digits(text, 8, 2);
        int hour = digits(text, 11, 2);
        int minute = digits(text, 14, 2);
        int second = digits(text, 17, 2);
        if (year < 1 || month < 1 || month > 12 || day < 1 || hour < 0 || minute < 0 || second < 0) {
            return NONE;
        }
        if (day > 28 && day > YearMonth.of(year, month).lengthOfMonth() || hour > 23 || minute > 59 || second > 59) {
            return NONE;
        }
        int zone = 19;
        long microsecond = 0;
        if (text.charAt(zone) == '.') {
            int first = ++zone;
            while (zone < text.length() && isDigit(text.charAt(zone))) {
                zone++;
            }
            microsecond = microsecond(text, first, zone);
        }
        int offset = offsetMinutes(text, zone);
        if (microsecond < 0 || offset == Integer.MIN_VALUE) {
            return NONE;
        }
        long local = LocalDate.of(year, month, day).toEpochDay() * DAY_MS
                + (hour * 3600L + minute * 60L + second) * 1000
                + microsecond / 1000;
        boolean pastLastYear = year == 9999 && local >= LAST_LOCAL_MS;
        return pastLastYear ? NONE : local - offset * 60_000L;
    }

    private static final long LAST_LOCAL_MS = LocalDate.of(10_000, 1, 1).toEpochDay() * DAY_MS;

    private static boolean laidOut(String text) {
        char separator = text.charAt(10);
        return text.charAt(4) == '-'
                && text.charAt(7) == '-'
                && (separator == 'T' || separator == 't' || separator == ' ')
                && text.charAt(13) == ':'
                && text.charAt(16) == ':';
    }

    /** The digits of a fraction as microseconds, rounded by the seventh; negative where there are none. */
    private static long microsecond(String text, int first, int end) {
        if (first == end) {
            return -1;
        }
        long value = 0;
        for (int place = first; place < first + 6; place++) {
            value = value * 10 + (place < end ? text.charAt(place) - '0' : 0);
        }
        return first + 6 < end && text.charAt(first + 6) >= '5' ? value + 1 : value;
    }

    /** What stands at the end: Z, ±hh:mm or ±hhmm; Integer.MIN_VALUE for anything else. */
    private static int offsetMinutes(String text, int zone) {
        int left = text.length() - zone;
        char sign = left > 0 ? text.charAt(zone) : 0;
        if (sign == 'Z' || sign == 'z') {
            return left == 1 ? 0 : Integer.MIN_VALUE;
        }
        boolean colon = left == 6 && text.charAt(zone + 3) == ':';
        if (sign != '+' && sign != '-' || left != 5 && !colon) {
            return Integer.MIN_VALUE;
        }
        int hours = digits(text, zone + 1, 2);
        int minutes = digits(text, text.length() - 2, 2);
        if (hours < 0 || hours > 23 || minutes < 0 || minutes > 59) {
            return Integer.MIN_VALUE;
        }
        return (sign == '-' ? -1 : 1) * (hours * 60 + minutes);
    }

    /** The number that digits are; negative where one is none. */
    private static int digits(String text, int first, int count) {
        int value = 0;
        for (int place = first; place < first + count; place++) {
            char digit = text.charAt(place);
            if (!isDigit(digit)) {
                return -1;
            }
            value = value * 10 + digit - '0';
        }
        return value;
    }

    private static boolean isDigit(char character) {
        return character >= '0' && character <= '9';
    }
}
