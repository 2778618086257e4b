package selfgen.flink;

import java.util.Set;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.configuration.ConfigOption;
import org.apache.flink.configuration.ConfigOptions;
import org.apache.flink.configuration.ReadableConfig;
import org.apache.flink.table.connector.ChangelogMode;
import org.apache.flink.table.connector.format.DecodingFormat;
import org.apache.flink.table.connector.source.DynamicTableSource;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.factories.DeserializationFormatFactory;
import org.apache.flink.table.factories.DynamicTableFactory;
import org.apache.flink.table.factories.FactoryUtil;
import org.apache.flink.table.types.DataType;
import org.apache.flink.table.types.logical.RowType;

/** The format `contract`: a table's columns are fields of JSON messages; a message that breaks the contract is no row. */
public final class ContractFormatFactory implements DeserializationFormatFactory {
    static final ConfigOption<String> DESCRIPTION = ConfigOptions.key("description")
            .stringType()
            .noDefaultValue()
            .withDescription("What a message must be, as JSON: see flink_jobs/contract.py");

    @Override
    public String factoryIdentifier() {
        return "contract";
    }

    @Override
    public Set<ConfigOption<?>> requiredOptions() {
        return Set.of(DESCRIPTION);
    }

    @Override
    public Set<ConfigOption<?>> optionalOptions() {
        return Set.of();
    }

    @Override
    public DecodingFormat<DeserializationSchema<RowData>> createDecodingFormat(
            DynamicTableFactory.Context context, ReadableConfig options) {
        FactoryUtil.validateFactoryOptions(this, options);
        String description = options.get(DESCRIPTION);
        return new DecodingFormat<>() {
            @Override
            public DeserializationSchema<RowData> createRuntimeDecoder(
                    DynamicTableSource.Context context, DataType type) {
                return new ContractDeserializationSchema(
                        description, (RowType) type.getLogicalType(), context.createTypeInformation(type));
            }

            @Override
            public ChangelogMode getChangelogMode() {
                return ChangelogMode.insertOnly();
            }
        };
    }
}
