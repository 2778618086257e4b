"""The messages of anemometers: from Kafka, through the registry's cache, into MongoDB.

Run as `python -m kafka_consumers.streaming_sensor_wind`; start more of them to share the partitions.
"""

from kafka_consumers.process import main

if __name__ == "__main__":
    main("wind")
