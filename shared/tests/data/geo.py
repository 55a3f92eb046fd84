"""Writes the geography files of the tests, addresses for documentation in the layout of GeoLite2 and in the
flat one: nested.mmdb and flat.mmdb tell countries, places.mmdb cities, networks.mmdb networks. Needs the package mmdb-writer (0.2.7 was used); run it here."""

from mmdb_writer import MMDBWriter
from netaddr import IPSet

NETWORKS = {
    "203.0.113.0/24": "DE",
    "198.51.100.0/24": "AT",
    "2001:db8::/32": "US",
    "192.0.2.0/25": None,  # listed without a country
    "192.0.2.128/25": "Europe",  # not a code
}


def nested(code):
    names = {"de": "x", "en": "y"}
    if code is None:
        return {"continent": {"code": "EU", "names": names}}
    return {
        "continent": {"code": "EU", "names": names},
        "country": {"geoname_id": 1, "is_in_european_union": True, "iso_code": code, "names": names},
        "registered_country": {"geoname_id": 2, "iso_code": "FR", "names": names},
    }


def flat(code):
    return {"asn": "64496"} if code is None else {"country_code": code}



def write(name, records):
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type=name, description=name, int_type="u32")
    for network, record in records.items():
        writer.insert_network(IPSet([network]), record)
    writer.to_db_file(f"{name}.mmdb")


write(
    "places",
    {
        "203.0.113.0/24": {
            **nested("DE"),
            "subdivisions": [{"iso_code": "BY", "names": {"de": "Bayern", "en": "Bavaria"}}],
            "city": {"geoname_id": 3, "names": {"de": "München", "en": "Munich"}},
        },
        "198.51.100.0/24": {"country_code": "AT", "state1": "Vienna", "city": "Vienna"},
    },
)
write(
    "networks",
    {
        "203.0.113.0/24": {"autonomous_system_number": 64496, "autonomous_system_organization": "Example Telecom"},
        "198.51.100.0/24": {"asn": "AS24940", "as_name": "Hetzner Online GmbH"},
    },
)

for name, record in (("nested", nested), ("flat", flat)):
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type="Country", description=name)
    for network, code in NETWORKS.items():
        writer.insert_network(IPSet([network]), record(code))
    writer.to_db_file(f"{name}.mmdb")
