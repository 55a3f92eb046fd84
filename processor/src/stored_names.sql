SELECT segment_id,
       arraySort(bitmapToArray(bitmapAndnot(names, following))) AS first,
       arraySort(bitmapToArray(bitmapAndnot(following, names))) AS after
FROM (
    SELECT segment_id, groupBitmapState(segment_sequence) AS names,
           groupBitmapState(toUInt32(segment_sequence + 1)) AS following
    FROM clicks WHERE segment_id IN ? GROUP BY segment_id
)
